// A Node program as `scripts/torture` has it for workers: an HTTP server on two ports that takes 5 ms to answer. At
// SIGUSR2 it does to itself what ACT says. Nothing in it knows who its primary is.
'use strict';
const cluster = require('cluster');
const http = require('http');

const ANSWER_AFTER_MS = 5;

const acts = {
  disconnect: () => cluster.worker.disconnect(),
  close: () => {
    let open = servers.length;
    for (const server of servers) server.close(() => { if (--open === 0) process.exit(0); });
  },
  kill: () => cluster.worker.kill(),
  exit: () => process.exit(0),
};
process.once('SIGUSR2', acts[process.env.ACT] || (() => {}));

const servers = process.env.PORTS.split(' ').map((port) => http.createServer((request, response) => {
  setTimeout(() => {
    response.writeHead(200, { 'content-length': 6, 'x-worker': cluster.worker.id });
    response.end('hello\n');
  }, ANSWER_AFTER_MS);
}).listen(Number(port), '127.0.0.1'));

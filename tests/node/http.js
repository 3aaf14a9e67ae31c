// A server as people write them, on the port of the environment: PORT=8000 node http.js. A request is answered when all
// of it is there. /json tells what the program sees of the world, /big has a large answer; the paths of `ends` end it in
// one way or another, and are answered too if there is time for that.
'use strict';

const { spawnSync } = require('child_process');
const cluster = require('cluster');
const http = require('http');

const ends = {
  '/exit': () => process.exit(0),
  '/throw': () => { throw new Error('as the request says'); },
  '/disconnect': () => cluster.worker.disconnect(),
  '/kill': () => cluster.worker.kill(),
  '/hangup': () => process.disconnect(),
};

function seen() {
  const variables = Object.keys(process.env).filter((name) => /^(NODE_|CROUPIER_)/.test(name)).sort();
  const { isWorker, isMaster, worker } = cluster;
  return { isWorker, isMaster, id: worker && worker.id, connected: process.connected, variables };
}

// What a Node program sees that this one starts.
function childSees() {
  const { stdout } = spawnSync(process.execPath, ['-p', `JSON.stringify((${seen})())`], { encoding: 'utf8' });
  return JSON.parse(stdout);
}

const server = http.createServer((request, response) => {
  request.resume().on('end', () => {
    if (ends[request.url]) ends[request.url]();
    const { argv, execArgv } = process;
    const all = () => ({ ...seen(), argv: argv.slice(2), execArgv, cwd: process.cwd(), mode: process.env.MODE,
      instance: process.env.NODE_APP_INSTANCE, preloadedIn: globalThis.preloadedIn, listensOn: server.address(),
      peer: request.socket.remoteAddress || null, child: childSees() });
    const bodies = { '/json': () => JSON.stringify(all()), '/big': () => 'x'.repeat(64 << 20) };
    const body = request.url in bodies ? bodies[request.url]() : 'hello';
    const id = cluster.worker ? cluster.worker.id : 0;
    response.writeHead(200, { 'content-length': Buffer.byteLength(body), 'x-worker': id });
    response.end(body);
  });
});
server.listen(process.env.PORT);

// An http server that is an ES module, and waits at its top level before it listens.
import cluster from 'node:cluster';
import http from 'node:http';
import { setTimeout } from 'node:timers/promises';

await setTimeout(1);
http.createServer((request, response) => {
  response.writeHead(200, { 'content-length': 5, 'x-worker': cluster.worker.id });
  response.end('hello');
}).listen(process.env.PORT);

// An ordinary HTTP server: what `scripts/bench --node` measures. Nothing in it knows of croupier, or of a cluster.
'use strict';
const http = require('http');

http.createServer((request, response) => {
  response.writeHead(200, { 'content-length': 6, 'x-worker': process.pid });
  response.end('hello\n');
}).listen(Number(process.env.PORT || 0), '127.0.0.1');

// WebSockets beside http on one port: PORT=8000 node ws.js.
'use strict';

const cluster = require('cluster');
const http = require('http');
const { WebSocketServer } = require('ws');

const server = http.createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ worker: cluster.worker.id }));
});
new WebSocketServer({ server }).on('connection', (socket) => {
  socket.send(String(cluster.worker.id));
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
});
server.listen(process.env.PORT);

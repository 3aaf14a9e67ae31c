// Socket.IO with every transport that it has: PORT=8000 node socketio.js. All requests of one session have to reach one
// worker.
'use strict';

const cluster = require('cluster');
const http = require('http');
const { Server } = require('socket.io');

const server = http.createServer((request, response) => {
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ worker: cluster.worker.id }));
});
new Server(server).on('connection', (socket) => {
  socket.on('who', (answer) => answer(cluster.worker.id));
  socket.on('echo', (data, answer) => answer(data));
});
server.listen(process.env.PORT);

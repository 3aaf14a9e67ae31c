// A worker of the primary's messages. What it is sent it sends back, with the handle; but a message with `serve`
// brings a connection for its http server, one with `accept` a listening socket, one with `receive` a UDP socket, and
// one with `say` has it send as much text as that.
'use strict';

const cluster = require('cluster');
const http = require('http');

const server = http.createServer((request, response) => {
  response.writeHead(200, { 'content-length': 5, 'x-worker': cluster.worker.id, connection: 'close' });
  response.end('hello');
});

process.on('message', (message, handle) => {
  if (message.serve) server.emit('connection', handle);
  else if (message.accept) handle.on('connection', (socket) => server.emit('connection', socket));
  else if (message.receive) handle.on('message', (text, from) => handle.send(text, from.port, from.address));
  else if (message.say) process.send('ä'.repeat(message.say));
  else if (message.fail) throw new Error('over a message');
  else if (message.last) process.send(message, () => process.exit(3));
  else if (message.handleTwice) {
    process.send({ first: true }, handle, { keepOpen: true });
    process.send({ second: true }, handle);
  } else process.send(message, handle);
});
process.on('uncaughtException', (error) => process.send({ caught: error.message }));
process.send({ online: cluster.worker.id });

// An application on Fastify, which listens on every address of localhost: PORT=8000 node fastify.js.
'use strict';

const cluster = require('cluster');
const { Readable } = require('stream');
const fastify = require('fastify')();

fastify.get('/', async (request) => ({ worker: cluster.worker.id, ip: request.ip }));
fastify.post('/echo', async (request, reply) => reply.code(201).send(request.body));
fastify.get('/stream', (request, reply) => {
  reply.send(Readable.from(Array.from({ length: 20 }, (_, line) => `line ${line + 1}\n`)));
});
fastify.listen({ port: Number(process.env.PORT) });

// An application on Express: PORT=8000 node express.js.
'use strict';

const cluster = require('cluster');
const express = require('express');

const app = express();
app.use(express.json());
app.get('/', (request, response) => response.json({ worker: cluster.worker.id, ip: request.ip }));
app.post('/echo', (request, response) => response.status(201).json(request.body));
app.get('/stream', (request, response) => {
  response.type('text');
  let lines = 0;
  const timer = setInterval(() => {
    response.write(`line ${++lines}\n`);
    if (lines === 20) response.end(() => clearInterval(timer));
  }, 1);
});
app.listen(process.env.PORT);

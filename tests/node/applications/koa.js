// An application on Koa: PORT=8000 node koa.js.
'use strict';

const cluster = require('cluster');
const Koa = require('koa');

const app = new Koa();
app.use(async (context, next) => {
  await next();
  context.set('x-powered-by', 'koa');
});
app.use((context) => {
  if (context.path === '/') context.body = { worker: cluster.worker.id, ip: context.ip };
  if (context.path === '/echo') {
    context.status = 201;
    context.type = 'json';
    context.body = context.req;
  }
  if (context.path === '/stream') context.body = Array.from({ length: 20 }, (_, line) => `line ${line + 1}\n`).join('');
});
app.listen(process.env.PORT);

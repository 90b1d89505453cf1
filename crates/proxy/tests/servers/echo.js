// An endpoint that says what it was asked. usage: node echo.js NAME http1|http2
// Prints its port. The path chooses what it does:
//   /bytes/N        N bytes with a length              /chunked/N   N bytes in chunks, with a trailer
//   /status/N       that status                        /delay/MS    waits first
//   /hints          103 before the answer              /reset       ends the connection instead of an answer
//   /slow-body/MS   a second piece after a wait        /flaky/N     503 to the first N requests with this query
//   /hash           length and SHA-256 of the body     /mirror      the body back, as it comes
//   /close          Connection: close                  /hits        how many requests had the path /count
//   /cors           scripts of all origins may read it
// and everything else answers with what was asked, as JSON.
'use strict';
const http = require('node:http');
const http2 = require('node:http2');
const crypto = require('node:crypto');
const [name, kind] = process.argv.slice(2);
const flaky = new Map();
let hits = 0;

let made = Buffer.alloc(0);

// Making many long ones would keep the server from answering anybody.
function pattern(size) {
  if (made.length < size) {
    made = Buffer.alloc(size);
    for (let i = 0; i < size; i++) made[i] = (i * 31 + (i >> 8)) & 255;
  }
  return made.subarray(0, size);
}

function describe(request, length) {
  const headers = {};
  for (const [key, value] of Object.entries(request.headers)) if (!key.startsWith(':')) headers[key] = value;
  return JSON.stringify({
    name, method: request.method, url: request.url, version: request.httpVersion, headers,
    authority: request.headers[':authority'], raw: kind === 'http1' ? request.rawHeaders : undefined,
    trailers: request.trailers, length,
  }) + '\n';
}

async function answer(request, response) {
  const url = new URL(request.url, 'http://x');
  const [, what, value] = url.pathname.split('/');
  const number = Number(value || 0);
  if (what === 'mirror') {
    response.writeHead(200, { 'content-type': 'application/octet-stream' });
    return request.pipe(response);
  }
  const digest = crypto.createHash('sha256');
  let length = 0;
  for await (const piece of request) { digest.update(piece); length += piece.length; }
  if (what === 'count') hits++;
  switch (what) {
    case 'bytes':
      response.writeHead(200, { 'content-length': number });
      return response.end(request.method === 'HEAD' ? undefined : pattern(number));
    case 'chunked':
      response.writeHead(200, { trailer: 'x-sum' });
      for (let at = 0; at < number; at += 10000) response.write(pattern(number).subarray(at, at + 10000));
      response.addTrailers({ 'x-sum': crypto.createHash('sha256').update(pattern(number)).digest('hex') });
      return response.end();
    case 'status':
      response.writeHead(number);
      return response.end([204, 304].includes(number) ? undefined : `${name} ${number}\n`);
    case 'delay':
      await new Promise((done) => setTimeout(done, number));
      return response.end(describe(request, length));
    case 'hints':
      response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
      await new Promise((done) => setTimeout(done, 50));
      return response.end(describe(request, length));
    case 'reset':
      return kind === 'http1' ? request.socket.destroy() : request.stream.session.destroy();
    case 'slow-body':
      response.writeHead(200, { 'content-length': 10 });
      response.write('first');
      await new Promise((done) => setTimeout(done, number));
      return response.end('later');
    case 'flaky': {
      const seen = (flaky.get(url.search) || 0) + 1;
      flaky.set(url.search, seen);
      response.writeHead(seen <= number ? 503 : 200, { 'x-try': seen });
      return response.end(`${name}\n`);
    }
    case 'hash':
      return response.end(`${length} ${digest.digest('hex')}\n`);
    case 'close':
      response.writeHead(200, { connection: 'close' });
      return response.end('bye\n');
    case 'hits':
      return response.end(`${hits}\n`);
    case 'grpc':
      response.writeHead(200, { 'content-type': 'application/grpc', trailer: 'grpc-status' });
      response.write(Buffer.from([0, 0, 0, 0, 2, 104, 105]));
      response.addTrailers({ 'grpc-status': '0', 'grpc-message': name });
      return response.end();
    case 'cors':
      response.setHeader('access-control-allow-origin', '*');
      response.setHeader('access-control-allow-credentials', 'true');
      response.setHeader('vary', 'Accept');
      // falls through
    default: {
      // With a length, as most answers have that are made whole.
      const text = describe(request, length);
      const size = Buffer.byteLength(text);
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': size, 'X-Name': name, 'x-secret': 'yes' });
      return response.end(text);
    }
  }
}

const safely = (request, response) => answer(request, response).catch(() => response.destroy && response.destroy());
const server = kind === 'http2' ? http2.createServer(safely) : http.createServer({ keepAliveTimeout: 5000 }, safely);
server.on('upgrade', (request, socket, head) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ' + request.headers.upgrade + '\r\n\r\n');
  socket.write(head);
  socket.pipe(socket);
});
server.on('connect', (request, socket, head) => {
  socket.write('HTTP/1.1 200 Connected\r\n\r\n' + request.url + '\n');
  socket.write(head);
  socket.pipe(socket);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

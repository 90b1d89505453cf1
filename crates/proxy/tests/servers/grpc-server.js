// A server like those of gRPC: sends each piece back as it comes, and ends with trailers. usage: node grpc-server.js NAME
'use strict';
const http2 = require('node:http2');
const [name] = process.argv.slice(2);
const server = http2.createServer();
server.on('stream', (stream, headers) => {
  if (headers['content-type'] !== 'application/grpc' || headers.te !== 'trailers') return stream.close(1);
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'x-name': name }));
  stream.on('data', (data) => stream.write(data));
  stream.on('end', () => stream.end());
  stream.on('error', () => {});
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

// Answers GET with its name and the target, POST with what it was sent.
const [name, host, port] = process.argv.slice(2);
require('http').createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const sent = Buffer.concat(parts);
    const body = request.method === 'POST' ? sent : Buffer.from(`${name} ${request.url}\n`);
    response.writeHead(200, { 'content-length': body.length, 'content-type': 'text/plain' });
    response.end(body);
  });
}).listen({ host, port: Number(port), keepAliveTimeout: 60000 });

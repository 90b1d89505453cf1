// A client like those of gRPC: many calls on one connection, streaming both ways. usage: node grpc-client.js PORT CALLS
// Each call sends three messages and waits for each to come back before the next; prints the names that answered.
'use strict';
const http2 = require('node:http2');
const [port, calls] = process.argv.slice(2).map(Number);
const session = http2.connect(`http://127.0.0.1:${port}`);

function message(text) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(text.length, 1);
  return Buffer.concat([head, Buffer.from(text)]);
}

function call(number) {
  return new Promise((done, failed) => {
    const stream = session.request({
      ':method': 'POST', ':path': '/echo.Echo/Stream', ':authority': 'echo.test', 'content-type': 'application/grpc', te: 'trailers',
    });
    let sent = 0, got = Buffer.alloc(0), name;
    const next = () => sent < 3 ? stream.write(message(`${number}/${sent++}`)) : stream.end();
    stream.on('data', (data) => {
      got = Buffer.concat([got, data]);
      const expected = Buffer.concat([...Array(sent).keys()].map((i) => message(`${number}/${i}`)));
      if (!expected.subarray(0, got.length).equals(got)) failed(new Error(`call ${number} got ${got}`));
      if (got.length === expected.length) next();
    });
    stream.on('trailers', (trailers) => {
      if (trailers['grpc-status'] !== '0') failed(new Error(JSON.stringify(trailers)));
      name = trailers['x-name'];
    });
    stream.on('end', () => name ? done(name) : failed(new Error('no trailers')));
    stream.on('error', failed);
    next();
  });
}

Promise.all([...Array(calls).keys()].map(call)).then((names) => {
  const counts = {};
  for (const name of names) counts[name] = (counts[name] || 0) + 1;
  console.log(JSON.stringify(counts));
  session.close();
}, (error) => { console.error(error); process.exit(1); });

// Asks a service over kept connections, eight at once, and compares: client.js HOST COUNT NAME
const http = require('http');
const [host, count, name] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
let next = 0, done = 0;
function fail(what) { console.error(what); process.exit(1); }
function ask() {
  if (next >= Number(count)) return;
  const number = next++;
  const post = number % 3 === 2;
  const body = post ? Buffer.alloc(number * 13 % 30000, `${number} `) : Buffer.from(`${name} /x?n=${number}\n`);
  const options = { host, port: 80, agent, path: post ? '/echo' : `/x?n=${number}`, method: post ? 'POST' : 'GET',
    headers: post ? { 'content-length': body.length } : {} };
  const request = http.request(options, (response) => {
    const parts = [];
    response.on('data', (part) => parts.push(part));
    response.on('end', () => {
      const seen = Buffer.concat(parts);
      if (response.statusCode !== 200 || !seen.equals(body)) fail(`request ${number}: ${response.statusCode} ${seen.subarray(0, 200)}`);
      if (++done === Number(count)) { console.log(`right ${count}`); process.exit(0); }
      ask();
    });
  });
  request.on('error', (error) => fail(`request ${number}: ${error}`));
  request.end(post ? body : undefined);
}
for (let i = 0; i < 8; i++) ask();

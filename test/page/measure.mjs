// Measures the page on the host that it is started on: how long until all guests
// are painted, and how many frames a second there are while counters move. It
// prints one line of JSON.

import {launch, newPage} from './browser.mjs';

const guests = Number(process.env.GUESTS), runs = Number(process.env.RUNS || 5), seconds = Number(process.env.SECONDS || 5);
const browser = await launch();
const out = {paint: [], frames: [], longest: [], panning: []};

// painted is when the last guest is on the screen: two frames after it is in the
// document, in milliseconds after the navigation began.
const painted = (n) => new Promise((done, never) => {
  const look = () => {
    if (performance.now() > 60000) { never(new Error(document.querySelectorAll('.node.guest').length + ' of ' + n + ' guests after a minute: ' + document.body.innerText)); return; }
    if (document.querySelectorAll('.node.guest').length < n) { requestAnimationFrame(look); return; }
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
  };
  look();
});

// frames counts frames, and the longest between two, in milliseconds.
const frames = (limit) => new Promise((done) => {
  const began = performance.now();
  let n = 0, last = began, longest = 0;
  const frame = (now) => {
    n++;
    longest = Math.max(longest, now - last);
    last = now;
    if (now - began < limit) requestAnimationFrame(frame); else done({rate: n * 1000 / (now - began), longest});
  };
  requestAnimationFrame(frame);
});

const page = await newPage(browser);
await page.evaluate(painted, guests);
const cdp = await page.context().newCDPSession(page);
await cdp.send('Performance.enable');
const spent = [];
for (let i = 0; i < runs; i++) {
  await page.reload({waitUntil: 'commit'});
  out.paint.push(await page.evaluate(painted, guests));
  if (process.env.TIMES) spent.push(Object.fromEntries((await cdp.send('Performance.getMetrics')).metrics.filter((m) => /Duration/.test(m.name)).map((m) => [m.name, Math.round(m.value * 1000)])));
}
await page.waitForFunction((n) => window.drawbridge.view.picture.traffic.lines.length >= n, guests);
for (let i = 0; i < runs; i++) {
  const f = await page.evaluate(frames, seconds * 1000);
  out.frames.push(f.rate);
  out.longest.push(f.longest);
}
const counting = page.evaluate(frames, seconds * 1000);
await page.mouse.move(600, 500);
await page.mouse.down();
for (const end = Date.now() + seconds * 900, x = [0]; Date.now() < end; x[0] += 4) await page.mouse.move(600 + 200 * Math.sin(x[0] / 60), 500 + 100 * Math.cos(x[0] / 60));
await page.mouse.up();
out.panning.push((await counting).rate);
if (process.env.TIMES) console.error(JSON.stringify(spent), JSON.stringify(await page.evaluate(() => performance.getEntriesByType('resource').slice(0, 20).map((r) => [r.name.replace(/.*:\d+/, ''), Math.round(r.startTime), Math.round(r.responseStart), Math.round(r.responseEnd), r.transferSize]))));
if (process.env.SHOT) await page.screenshot({path: process.env.SHOT});
console.log(JSON.stringify(out));
await browser.close();
process.exit(0);

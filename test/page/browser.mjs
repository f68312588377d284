// A browser on the host that the test made, and what every test of the page needs.

import {execFile} from 'node:child_process';
import {mkdtempSync} from 'node:fs';
import {createInterface} from 'node:readline';
import {promisify} from 'node:util';
import {chromium} from 'playwright-core';

const run = promisify(execFile);

// db runs the client; the answer is JSON if -o json is among the words.
export async function db(...args) {
  const {stdout} = await run(process.env.DRAWBRIDGE, args);
  return args.includes('json') ? JSON.parse(stdout) : stdout;
}

export const shell = async (text) => (await run('sh', ['-c', text])).stdout;

export function launch() {
  return chromium.launch({
    executablePath: '/usr/bin/chromium', chromiumSandbox: false,
    // Without these it looks for hosts that are not there.
    args: ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', ...(process.env.FLAGS || '').split(' ').filter(Boolean)],
    env: {...process.env, HOME: mkdtempSync((process.env.SCRATCH || '/tmp') + '/chromium-')},
  });
}

// ask has the test do something to the daemon.
const answers = createInterface({input: process.stdin})[Symbol.asyncIterator]();

export async function ask(what) {
  console.log('@do ' + what);
  const {value} = await answers.next();
  if (value !== 'done') throw new Error(`${what}: ${value}`);
}

// limits are generous: a busy machine is slow.
export const patience = 30000;

// newPage opens a page, logged in by a fresh link unless told otherwise. Whatever
// the page complains about, and every request to another host, is remembered.
export async function newPage(browser, {width = 1600, height = 900, scheme = 'light', motion = 'no-preference', link, readOnly} = {}) {
  const context = await browser.newContext({viewport: {width, height}, colorScheme: scheme, reducedMotion: motion, deviceScaleFactor: 1, hasTouch: width < 500});
  context.setDefaultTimeout(patience);
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (m) => { if (m.type() === 'error' && !/Failed to load resource/.test(m.text())) page.complaints.push(m.text()); });
  page.on('pageerror', (e) => page.complaints.push(String(e)));
  page.strangers = [];
  page.on('request', (r) => { if (new URL(r.url()).hostname !== '127.0.0.1') page.strangers.push(r.url()); });
  const web = await db('web', '-o', 'json', ...(readOnly ? ['--read-only'] : []));
  await page.goto(link ?? web.link);
  return page;
}

export const settled = (page) => page.waitForFunction(() => document.querySelectorAll('.node').length > 0 && window.drawbridge.state.status !== null);

export function equal(got, want, what) {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

export function holds(condition, what) { if (!condition) throw new Error(what); }

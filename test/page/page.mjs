// What is tried with the page, in this order: each test finds the host as the one
// before left it.

import {ask, db, equal, holds, launch, newPage, patience, settled, shell} from './browser.mjs';

const shots = process.env.SHOTS;
const browser = await launch();

const dialog = (page) => page.locator('dialog[open]');
const button = (page, name) => page.getByRole('button', {name, exact: true});
const shot = (page, name) => page.screenshot({path: `${shots}/${name}.png`, animations: 'disabled'});

// until waits for something outside of the page.
async function until(f, what) {
  for (const end = Date.now() + patience; Date.now() < end;) {
    try { if (await f()) return; } catch { /* not yet */ }
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error('not in time: ' + what);
}

// go shows a view by its tab.
async function go(page, name) {
  await page.locator('#tabs').getByRole('link', {name, exact: true}).click();
  await page.getByRole('heading', {level: 1, name}).waitFor();
}

// fillIn fills in the open form and asks for the plan.
async function fillIn(page, fields) {
  for (const [label, value] of Object.entries(fields)) {
    const field = dialog(page).getByLabel(label, {exact: true});
    if ((await field.evaluate((el) => el.tagName)) === 'SELECT') await field.selectOption(value); else await field.fill(value);
  }
  await dialog(page).locator('button[type=submit]').click();
}

// doIt looks at the plan and carries it out.
async function doIt(page, name = 'Do it') {
  await dialog(page).locator('.plan').waitFor();
  holds(await dialog(page).locator('.steps li').count() > 0, 'the plan has no steps');
  await dialog(page).getByRole('button', {name, exact: true}).click();
  await dialog(page).waitFor({state: 'detached'});
}

// redCables are those that something is wrong with, and what.
const redCables = (page) => page.locator('.cable.problem').evaluateAll((list) => list.map(({cable: c}) => `${c.from} to ${c.to}: ${c.note || c.finding}`));

const networks = async () => (await db('network', 'ls', '-o', 'json')).map((n) => n.name);

const tests = {
  async login() {
    const {link} = await db('web', '-o', 'json');
    const page = await newPage(browser, {link});
    await settled(page);
    equal(new URL(page.url()).hash.includes('login'), false, 'the secret stays in the address');
    equal(await page.evaluate(() => document.cookie), '', 'scripts see the cookie');
    equal(await page.evaluate(() => fetch('/v1/session').then((r) => r.json()).then((s) => s.host)), 'kvm1', 'host');
    const second = await newPage(browser, {link});
    await second.getByText('this link was used already').waitFor();
    await shot(second, 'login');
    const {secret} = await db('token', 'add', 'wall', '--read-only', '-o', 'json');
    await second.getByLabel('Link or token').fill('wrong');
    await button(second, 'Log in').click();
    await second.getByText('not known here').waitFor();
    await second.getByLabel('Link or token').fill(secret);
    await button(second, 'Log in').click();
    await settled(second);
    await second.getByText('look only').waitFor();
    // The token is removed: the wall screen is asked to log in again, by itself.
    await db('token', 'rm', 'wall');
    await second.getByText('The login has ended').waitFor();
    await button(page, 'logged in').click();
    await button(page, 'Log out').click();
    await page.getByRole('heading', {name: 'Log in'}).waitFor();
    equal(await page.evaluate(() => fetch('/v1/status').then((r) => r.status)), 401, 'after logging out');
    return [page, second];
  },

  async picture() {
    const page = await newPage(browser);
    await settled(page);
    const nodes = await page.evaluate(() => window.drawbridge.state.topology.nodes.filter((n) => n.box).map((n) => n.id).sort());
    equal(await page.evaluate(() => [...window.drawbridge.view.picture.boxes.keys()].sort()), nodes, 'boxes');
    // Guests ping: their cables carry dashes that move.
    const pixels = () => page.evaluate(() => { const c = document.querySelector('.picture canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0, sum = 0; for (let i = 3; i < d.length; i += 4) if (d[i]) { n++; sum = (sum * 31 + i) >>> 0; } return [n, sum]; });
    await until(async () => (await pixels())[0] > 0, 'traffic is drawn');
    const [, before] = await pixels();
    await until(async () => (await pixels())[1] !== before, 'traffic moves');
    const calm = await newPage(browser, {motion: 'reduce'});
    await settled(calm);
    await calm.waitForFunction(() => window.drawbridge.view.picture.traffic.lines.length > 0);
    equal(await calm.evaluate(() => { const c = document.querySelector('.picture canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((x) => x); }), false, 'something moves for who wants less motion');
    // What is wrong is red, and says why.
    await db('network', 'stop', 'lab', '--cut-guests');
    await page.locator('.node.bridge.stopped').waitFor();
    await db('network', 'start', 'lab');
    await page.locator('.node.bridge.isolated.ok').waitFor();
    // By mouse: the tip, and the details.
    const web = page.locator('.node.guest', {hasText: 'web'}).first();
    await web.hover();
    await page.locator('#tip').getByText('192.168.122').waitFor();
    await web.click();
    await page.locator('.details').getByText('Received').waitFor();
    await page.locator('.details').getByText('8080').first().waitFor();
    await shot(page, 'details');
    // Wheel and drag.
    const k = () => page.evaluate(() => window.drawbridge.view.picture.at);
    const was = await k();
    await page.mouse.move(500, 700);
    await page.mouse.wheel(0, -400);
    holds((await k()).k > was.k, 'the wheel does not bring it closer');
    const x = (await k()).x;
    await page.mouse.down();
    await page.mouse.move(400, 650, {steps: 5});
    await page.mouse.up();
    holds(Math.abs((await k()).x - x + 100) < 2, 'it does not follow the mouse');
    await button(page, 'All of it (0)').click();
    equal((await k()).k, was.k, 'all of it');
    // The next time it is asked for before the document is read, and as it is needed.
    await page.reload();
    await settled(page);
    const [asked, read] = await page.evaluate(() => [performance.getEntriesByType('resource').filter((r) => r.name.includes('/v1/topology')).map((r) => [r.name, r.startTime]), performance.getEntriesByType('navigation')[0].domInteractive]);
    holds(asked[0][1] < read, `the picture is asked for at ${asked[0][1]} ms, and the document was read at ${read} ms`);
    equal([...new Set(asked.map(([name]) => name))].length, 1, 'ways in which the picture is asked for');
    return [page, calm];
  },

  async networks() {
    const page = await newPage(browser);
    await settled(page);
    await go(page, 'Networks');
    await button(page, 'New network').click();
    await fillIn(page, {Name: 'blue', Subnet: '10.77.0.0/33'});
    await dialog(page).getByRole('alert').waitFor();
    equal(await dialog(page).getByLabel('Subnet').getAttribute('aria-invalid'), 'true', 'the field that is wrong');
    await fillIn(page, {Subnet: '10.77.0.0/24'});
    await dialog(page).locator('.before-after .node.bridge.added').waitFor();
    await shot(page, 'plan');
    holds(!(await networks()).includes('blue'), 'it was made before it was said so');
    await doIt(page);
    await page.getByRole('link', {name: 'blue'}).waitFor();
    holds((await networks()).includes('blue'), 'it was not made');
    const row = page.locator('tr', {hasText: 'blue'});
    await row.getByRole('button', {name: 'Settings'}).click();
    await fillIn(page, {MTU: '1400'});
    await doIt(page);
    equal((await db('network', 'show', 'blue', '-o', 'json')).mtu, 1400, 'MTU');
    await row.getByRole('button', {name: 'Stop'}).click();
    await doIt(page);
    await row.getByText('stopped').waitFor();
    await row.getByRole('button', {name: 'Start'}).click();
    await doIt(page);
    await row.getByText('running').waitFor();
    await shot(page, 'networks-1600-light');
    await row.getByRole('button', {name: 'Remove'}).click();
    await doIt(page);
    await row.waitFor({state: 'detached'});
    holds(!(await networks()).includes('blue'), 'it was not removed');
    // Guests would be cut off: it says whom, and Cancel leaves them alone.
    await page.locator('tr', {hasText: 'default'}).getByRole('button', {name: 'Stop'}).click();
    await dialog(page).getByText('guests are cut off').waitFor();
    await dialog(page).getByText('web').first().waitFor();
    await shot(page, 'cuts');
    await dialog(page).getByRole('button', {name: 'Cancel'}).click();
    equal((await db('network', 'show', 'default', '-o', 'json')).state, 'running', 'default');
    return [page];
  },

  async forwards() {
    const page = await newPage(browser);
    await settled(page);
    await go(page, 'Forwards');
    await button(page, 'Open a door').click();
    // Nothing leads into lab, which is isolated: neither it nor its guests are offered.
    const offered = await dialog(page).locator('datalist option').evaluateAll((list) => list.map((o) => o.value));
    equal(['build', 'db', 'probe', 'web'].filter((name) => offered.includes(name)), ['build', 'db', 'web'], 'guests that are offered');
    equal(await dialog(page).getByLabel('Network', {exact: true}).isVisible(), false, 'networks are offered, and there is one');
    await fillIn(page, {'Port on this host': '9090', To: 'db:90', 'Only for': '192.168.99.0/24', Comment: 'for the test'});
    await doIt(page);
    await page.getByText('for the test').waitFor();
    const f = (await db('forward', 'ls', '-o', 'json')).find((x) => x.listen === '9090');
    equal([f.guest, f.from], ['db:90', ['192.168.99.0/24']], 'the door');
    await shot(page, 'forwards-1600-light');
    await page.locator('tr', {hasText: '9090'}).getByRole('button', {name: 'Close'}).click();
    await doIt(page);
    await page.getByText('for the test').waitFor({state: 'detached'});
    equal((await db('forward', 'ls', '-o', 'json')).some((x) => x.listen === '9090'), false, 'the door afterwards');
    return [page];
  },

  async reservations() {
    const page = await newPage(browser);
    await settled(page);
    await go(page, 'Reservations');
    await button(page, 'Reserve an address').click();
    await fillIn(page, {Network: 'default', 'Hardware address': '52:54:00:99:00:01', Address: '192.168.122.77', 'Name in DNS': 'printer'});
    await doIt(page);
    await page.getByText('printer').waitFor();
    equal((await db('reservation', 'ls', '-o', 'json'))[0].ip, '192.168.122.77', 'address');
    await page.locator('tr', {hasText: 'printer'}).getByRole('button', {name: 'Take back'}).click();
    await doIt(page);
    await page.getByText('No address is reserved').waitFor();
    return [page];
  },

  // What was done is written down, by whom, and is taken back.
  async log() {
    const page = await newPage(browser);
    await settled(page);
    await go(page, 'Log');
    await db('network', 'set', 'lab', 'mtu=1300');
    const row = page.locator('tr', {hasText: 'set mtu of network "lab"'}).first();
    await row.waitFor();
    await page.locator('tr', {hasText: 'page login'}).first().waitFor(); // of the tests before
    await shot(page, 'log-1600-light');
    await row.getByRole('button', {name: 'Undo'}).click();
    await doIt(page);
    equal((await db('network', 'show', 'lab', '-o', 'json')).mtu, 1500, 'MTU');
    return [page];
  },

  async ports() {
    const page = await newPage(browser);
    await settled(page);
    await go(page, 'Guests');
    await button(page, 'Make a port').click();
    await fillIn(page, {Network: 'lab', 'Name of the guest': 'spare'});
    await page.getByRole('link', {name: 'spare'}).waitFor();
    const p = (await db('port', 'ls', '-o', 'json')).find((x) => x.guest === 'spare');
    equal([p.network, p.made, p.owner], ['lab', 'attach', undefined], 'port');
    await shot(page, 'guests-1600-light');
    await page.locator('tr', {hasText: 'spare'}).getByRole('button', {name: 'Unplug'}).click();
    await button(page, 'Unplug it').click();
    await page.getByRole('link', {name: 'spare'}).waitFor({state: 'detached'});
    return [page];
  },

  // A host's only NIC moves into a bridge, on trial.
  async pending() {
    const page = await newPage(browser);
    await settled(page);
    await page.evaluate(() => { window.stayed = true; });
    await go(page, 'Networks');
    const create = async () => {
      await button(page, 'New network').click();
      await fillIn(page, {Name: 'lan', Mode: 'bridged', Uplink: 'enp6s18'});
      await dialog(page).getByText('the host’s own connections are at risk').waitFor();
    };
    await create();
    await shot(page, 'plan-bridged');
    await doIt(page);
    await page.locator('.pending.waiting').waitFor();
    const clock = async () => parseInt(await page.locator('.clock').textContent());
    const first = await clock();
    holds(first > 20 && first <= 60, `the clock says ${first}`);
    await until(async () => await clock() < first, 'the clock runs');
    await shot(page, 'pending-1600-light');
    await page.setViewportSize({width: 390, height: 844});
    await shot(page, 'pending-390-light');
    await page.setViewportSize({width: 1600, height: 900});
    // Another page, and the same one after a restart of the daemon, know of it too.
    await ask('kill');
    await page.getByText('Connection lost').waitFor();
    await ask('start');
    await page.getByText('Connection lost').waitFor({state: 'hidden'});
    await page.locator('.pending.waiting').waitFor();
    await button(page, 'A minute more').click();
    await until(async () => await clock() > 61, 'there is more time');
    await button(page, 'Keep it').click();
    await page.locator('.pending').waitFor({state: 'detached'});
    await until(async () => (await networks()).includes('lan'), 'it was kept');
    equal((await db('change', 'ls', '-o', 'json')).length, 0, 'changes afterwards');
    await page.locator('tr', {hasText: 'lan'}).getByRole('button', {name: 'Remove'}).click();
    await doIt(page);
    await page.locator('.pending.waiting').waitFor();
    await button(page, 'Take it back').click();
    await page.locator('.pending').waitFor({state: 'detached'});
    equal((await networks()).includes('lan'), true, 'after taking it back');
    await page.locator('#tabs').getByRole('link', {name: 'Picture'}).click();
    await page.locator('.node.bridged').waitFor();
    await shot(page, 'bridged');
    await go(page, 'Networks');
    await page.locator('tr', {hasText: 'lan'}).getByRole('button', {name: 'Remove'}).click();
    await doIt(page);
    await button(page, 'Keep it').click();
    await until(async () => !(await networks()).includes('lan'), 'it was removed');
    equal(await page.evaluate(() => window.stayed), true, 'it was loaded again');
    return [page];
  },

  async restart() {
    const page = await newPage(browser);
    await settled(page);
    await page.evaluate(() => { window.stayed = true; });
    await ask('kill');
    await page.getByText('Connection lost, trying again').waitFor();
    await shot(page, 'lost');
    holds(await page.locator('.node').count() > 3, 'what was known is gone');
    await ask('start');
    await page.getByText('Connection lost').waitFor({state: 'hidden'});
    const tap = (await db('port', 'attach', 'lab', '--name', 'after', '-o', 'json')).tap;
    await page.locator('.node.guest', {hasText: 'after'}).waitFor();
    await db('port', 'detach', tap);
    await page.locator('.node.guest', {hasText: 'after'}).waitFor({state: 'detached'});
    // A daemon that hangs is one that is lost, and one that goes on is found.
    await ask('freeze');
    await page.getByText('Connection lost').waitFor();
    await ask('thaw');
    await page.getByText('Connection lost').waitFor({state: 'hidden'});
    equal(await page.evaluate(() => window.stayed), true, 'it was loaded again');
    await go(page, 'Networks');
    await page.locator('tr', {hasText: 'lab'}).getByRole('button', {name: 'Settings'}).click();
    await fillIn(page, {MTU: '1450'});
    await doIt(page); // the login outlived the daemon
    return [page];
  },

  // A firewall of somebody else stops guests: the cable is red, leads to the finding,
  // the finding to its fix, and the fix lets packets pass again.
  async findings() {
    await ask('observe');
    const page = await newPage(browser);
    await settled(page);
    await ask('reach');
    await page.locator('.cable').first().waitFor({state: 'attached'});
    equal(await redCables(page), [], 'red cables before');
    await shell('nft "add table inet foreign; add chain inet foreign forward { type filter hook forward priority 5; policy drop; }"');
    const rules = async () => JSON.parse(await shell('nft -j list chain inet foreign forward')).nftables.filter((x) => x.rule).length;
    try {
      await ask('cut');
      const red = page.locator('.cable.problem[role=link]');
      await red.first().waitFor({state: 'attached'});
      await page.locator('.node.bridge.nat.problem', {hasText: 'default'}).waitFor();
      await page.locator('#health', {hasText: 'fault'}).waitFor();
      await shot(page, 'fault-1600-light');
      // By keyboard, and by mouse.
      await red.first().focus();
      await page.keyboard.press('Enter');
      const chosen = page.locator('.finding.chosen');
      await chosen.getByRole('heading', {name: /-blocked$/}).waitFor();
      await page.goBack();
      // Somewhere on the line that is not below a box.
      const [x, y] = await red.first().locator('.wire').evaluate((el) => {
        const m = el.getScreenCTM();
        for (let at = 0.02; at < 1; at += 0.02) {
          const p = el.getPointAtLength(el.getTotalLength() * at).matrixTransform(m);
          if (document.elementFromPoint(p.x, p.y)?.closest('.cable') === el.parentNode) return [p.x, p.y];
        }
        return [0, 0];
      });
      await page.mouse.move(x, y);
      await page.locator('#tip').getByText('-blocked').waitFor();
      await page.mouse.click(x, y);
      await chosen.waitFor();
      holds(await chosen.evaluate((el) => el.contains(document.activeElement)), 'the finding has not the focus');
      await chosen.getByText('inet foreign forward').first().waitFor();
      await shot(page, 'findings-1600-light');
      // Who may only look sees it, and mends nothing.
      const looks = await newPage(browser, {readOnly: true, width: 390, height: 844, scheme: 'dark'});
      await settled(looks);
      await looks.locator('#health', {hasText: 'fault'}).click();
      await looks.locator('.finding.fault').first().waitFor();
      equal(await looks.getByRole('button', {name: /^Mend/}).count(), 0, 'buttons for who may only look');
      await shot(looks, 'findings-390-dark');
      equal(await looks.evaluate(() => document.documentElement.scrollWidth), 390, 'width');
      // Each fix by its plan, until nothing is wrong.
      equal(await rules(), 0, 'rules before');
      for (let i = 0; await page.locator('.finding.fault').count() > 0 && i < 6; i++) {
        const before = await page.locator('.finding.fault').count();
        await page.getByRole('button', {name: /^Mend/}).first().click();
        await dialog(page).locator('.steps li').first().waitFor();
        if (i === 0) await shot(page, 'mend');
        await doIt(page);
        await page.locator('.toast', {hasText: 'drawbridge undo'}).last().waitFor();
        await until(async () => await page.locator('.finding.fault').count() < before, 'the finding goes');
      }
      holds(await rules() > 0, 'nft knows of no exception');
      await ask('reach');
      await page.locator('#tabs').getByRole('link', {name: 'Picture'}).click();
      await page.locator('.node.bridge.nat.ok').waitFor();
      equal(await redCables(page), [], 'red cables afterwards');
      await go(page, 'Log');
      // The record has the way back.
      const mended = page.locator('tr', {hasText: 'mend guests-blocked of network default'}).last(), had = await rules();
      await mended.getByRole('button', {name: 'Undo'}).click();
      await doIt(page);
      await until(async () => await rules() < had, 'the exception goes');
      await ask('cut');
      return [page, looks];
    } finally {
      await shell('nft delete table inet foreign');
      await ask('on');
    }
  },

  // What nobody tells: the kernel does not say who changed an MTU, and of a parameter
  // nothing at all.
  async untold() {
    const page = await newPage(browser);
    await settled(page);
    const says = (text) => page.evaluate((text) => [window.drawbridge.state.topology, ...window.drawbridge.state.topology.nodes].some((n) => n.findings?.some((f) => f.text.includes(text))), text);
    await shell('ip link add spare type veth peer name spare0 && ip link set spare0 up && ip addr add 198.51.100.2/24 dev spare && ip link set spare up && ip route add default via 198.51.100.1 dev spare metric 900 && echo 0 | tee /proc/sys/net/ipv4/conf/all/rp_filter /proc/sys/net/ipv4/conf/spare/rp_filter');
    try {
      await shell('ip link set web mtu 1400');
      await until(() => says('web has MTU 1400'), 'the MTU is found');
      await page.locator('.cable.warning').first().waitFor({state: 'attached'});
      await shell('ip link set web mtu 1500');
      await until(async () => !await says('web has MTU'), 'the MTU is found to be well');
      await shell('echo 1 > /proc/sys/net/ipv4/conf/spare/rp_filter');
      await until(() => says('rp_filter of spare'), 'the parameter is found');
    } finally {
      await shell('ip link set web mtu 1500; ip link del spare');
    }
    return [page];
  },

  async paths() {
    const page = await newPage(browser);
    await settled(page);
    await page.keyboard.press('p');
    await page.getByRole('heading', {level: 1, name: 'Paths'}).waitFor();
    const from = page.getByLabel('From', {exact: true}), to = page.getByLabel('To', {exact: true});
    await page.waitForFunction(() => ['lan', 'internet', 'host', 'web', 'build'].every((name) => [...document.querySelectorAll('#path-ends option')].some((o) => o.value === name)));
    await page.keyboard.press('Enter');
    equal(await from.getAttribute('aria-invalid'), 'true', 'an end that is missing');
    await from.fill('web');
    await to.fill('lan');
    await page.keyboard.press('Enter');
    await page.locator('.sentence.fine', {hasText: 'a ping from web reaches lan, and the answer comes back'}).waitFor();
    const drawn = () => page.waitForFunction(() => { const i = document.querySelector('.path img'); return i?.complete && i.naturalWidth > 0; });
    await drawn();
    await page.locator('.walk li').first().waitFor();
    await shot(page, 'paths-1600-light');
    await page.getByRole('button', {name: 'Ask the other way round'}).click();
    await page.locator('.sentence.bad').waitFor(); // nobody outside begins a connection
    await to.fill('host:8080');
    await page.keyboard.press('Enter');
    await page.locator('.sentence', {hasText: 'a connection to port 8080 from lan to host'}).waitFor();
    equal(new URL(page.url()).hash, '#/paths/lan/host/8080/tcp', 'the address');
    await to.fill('<img src=x>');
    await page.getByLabel('Port', {exact: true}).fill('');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').getByText('<img').waitFor();
    await shell('nft "add table inet foreign; add chain inet foreign out { type filter hook forward priority 5; }; add rule inet foreign out iifname virbr0 ip protocol icmp drop"');
    try {
      for (const [width, height, scheme] of [[1600, 900, 'dark'], [390, 844, 'light'], [390, 844, 'dark']]) {
        const other = await newPage(browser, {width, height, scheme, readOnly: true});
        await settled(other);
        await other.goto(new URL('/#/paths/web/internet', other.url()).href);
        await other.locator('.sentence.bad', {hasText: 'inet foreign out'}).waitFor();
        await other.getByText('nft delete rule inet foreign out').first().waitFor();
        await other.waitForFunction(() => document.querySelector('.path img')?.naturalWidth > 0);
        equal(await other.evaluate(() => document.documentElement.scrollWidth), width, 'width');
        await other.screenshot({path: `${shots}/paths-${width}-${scheme}.png`, fullPage: false});
        await other.locator('.path img').screenshot({path: `${shots}/path-${width}-${scheme}.png`});
        equal([other.complaints, other.strangers], [[], []], 'the page complains');
      }
    } finally { await shell('nft delete table inet foreign'); }
    return [page];
  },

  async advice() {
    const page = await newPage(browser);
    await settled(page);
    await go(page, 'Advice');
    await page.locator('.advice .sentence').waitFor();
    await page.getByText('What was seen on this host').waitFor();
    const first = await page.locator('.sentence').textContent();
    await page.getByLabel('Guests are for').selectOption('production');
    await page.getByLabel('guests are machines of the LAN, with its addresses').check();
    await page.waitForFunction((was) => document.querySelector('.sentence')?.textContent !== was, first);
    const cli = await db('advise', '--for', 'production', '--need', 'lan-peer', '-o', 'json');
    equal(await page.locator('.commands').textContent(), cli.commands.join(''), 'commands');
    await page.locator('.before-after .node.added').first().waitFor();
    await shot(page, 'advice-1600-light');
    await button(page, 'New bridged network…').click();
    equal(await dialog(page).getByLabel('Mode', {exact: true}).inputValue(), 'bridged', 'the mode in the form');
    const small = await newPage(browser, {width: 390, height: 844, scheme: 'dark', readOnly: true});
    await settled(small);
    await go(small, 'Advice');
    await small.locator('.commands').waitFor();
    equal(await small.getByRole('button', {name: /New/}).count(), 0, 'buttons for who may only look');
    equal(await small.evaluate(() => document.documentElement.scrollWidth), 390, 'width');
    await shot(small, 'advice-390-dark');
    return [page, small];
  },

  // What a guest says is text.
  async hostile() {
    const page = await newPage(browser);
    await settled(page);
    // The daemon lets few of such names through; here all of them are, in every text.
    const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>\u202e"\'`${1}';
    const poison = (v, key) => (typeof v === 'string' ? (/^(id|from|to|kind|health|mode|time|began|ended|until|expires|state|phase|listen|made|mac|tap|bridge)$/.test(key) ? v : evil) : Array.isArray(v) ? v.map((x) => poison(x, key)) : v && typeof v === 'object' ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, poison(x, k)])) : v);
    // Something is wrong, so that there is a finding.
    await shell('ip link set mail mtu 1400');
    await db('doctor').catch(() => {}); // which fails, as something is wrong, and pictures have it from now on
    await page.route(/\/v1\/(topology|ports|status|forwards|leases|log|doctor)/, async (route) => {
      const answer = await route.fetch();
      await route.fulfill({response: answer, json: poison(await answer.json(), '')});
    });
    await page.reload();
    await settled(page);
    const markup = () => page.evaluate(() => [document.querySelectorAll('main img, main script, main iframe, #tip img, dialog img').length, document.title.startsWith('Drawbridge') || document.title.includes(' – Drawbridge')]);
    await page.locator('.node.guest').first().hover();
    await page.locator('#tip').getByText('<img').first().waitFor();
    await page.locator('.node.guest').first().click();
    await page.locator('.details.open').getByText('<img').first().waitFor();
    equal(await markup(), [0, true], 'markup in the picture');
    await shot(page, 'hostile');
    for (const view of ['Networks', 'Guests', 'Forwards', 'Leases', 'Log', 'Events', 'Changes', 'Findings']) {
      await go(page, view);
      if (['Networks', 'Guests', 'Leases', 'Log', 'Findings'].includes(view)) await page.getByText('<img').first().waitFor();
      equal(await markup(), [0, true], 'markup in ' + view);
    }
    // And where it were not, the browser would refuse to make a document of it.
    equal(await page.evaluate(() => { try { document.createElement('div').innerHTML = '<b>x</b>'; return 'made'; } catch (e) { return e.name; } }), 'TypeError', 'a string became a document');
    page.complaints.length = 0; // of that
    await page.unrouteAll({behavior: 'ignoreErrors'}); // what is asked for as the page is closed
    await shell('ip link set mail mtu 1500');
    return [page];
  },

  async keyboard() {
    const page = await newPage(browser);
    await settled(page);
    const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim());
    await page.keyboard.press('Tab');
    equal(await focused(), 'Skip to the content', 'the first');
    for (let i = 0; i < 30 && !(await page.evaluate(() => document.activeElement.classList.contains('node'))); i++) await page.keyboard.press('Tab');
    await page.keyboard.press('Home');
    await page.locator('.node:focus-visible').waitFor();
    const ring = await page.evaluate(() => getComputedStyle(document.activeElement.querySelector('.card')).strokeWidth);
    equal(ring, '3px', 'the focus is seen');
    await page.locator('#tip').waitFor(); // the words of the mouse are there for the keyboard too
    for (let i = 0; i < 6 && !(await focused()).startsWith('guest'); i++) await page.keyboard.press('ArrowDown');
    holds((await focused()).startsWith('guest'), `arrows lead to ${await focused()}`);
    const guest = await focused();
    await page.keyboard.press('ArrowRight');
    holds((await focused()) !== guest && (await focused()).startsWith('guest'), `the arrow to the right leads to ${await focused()}`);
    await page.keyboard.press('Enter');
    await page.locator('.details.open').waitFor();
    await page.keyboard.press('Escape');
    await page.locator('.details.open').waitFor({state: 'detached'}).catch(() => {});
    holds(await page.evaluate(() => document.activeElement.classList.contains('node')), 'the focus is lost with the details');
    // A dialog keeps the focus, and gives it back.
    await page.keyboard.press('2');
    await page.getByRole('heading', {level: 1, name: 'Networks'}).waitFor();
    await button(page, 'New network').focus();
    await page.keyboard.press('Enter');
    await dialog(page).waitFor();
    for (let i = 0; i < 25; i++) {
      await page.keyboard.press('Tab');
      holds(await page.evaluate(() => document.activeElement === document.body || document.querySelector('dialog').contains(document.activeElement)), 'the focus leaves the dialog');
    }
    await page.keyboard.press('Escape');
    await dialog(page).waitFor({state: 'detached'});
    equal(await focused(), 'New network', 'the focus afterwards');
    await page.keyboard.press('/');
    equal(await focused(), 'Search in Networks', 'search');
    await page.keyboard.type('la');
    await page.getByText('1 of 2').waitFor();
    return [page];
  },

  async readOnly() {
    const page = await newPage(browser, {readOnly: true});
    await settled(page);
    for (const view of ['Networks', 'Guests', 'Forwards', 'Reservations']) {
      await go(page, view);
      equal(await page.locator('main').getByRole('button', {name: /Stop|Remove|New network|Make a port|Open a door|Unplug|Close\b|Settings/}).count(), 0, `buttons in ${view}`);
    }
    equal(await page.evaluate(() => fetch('/v1/down', {method: 'POST', headers: {'Drawbridge-Key': localStorage.getItem('drawbridge-key')}}).then((r) => r.status)), 403, 'a change');
    return [page];
  },

  async pictures() {
    const pages = [];
    for (const [width, height] of [[1600, 900], [390, 844]]) {
      for (const scheme of ['light', 'dark']) {
        const page = await newPage(browser, {width, height, scheme});
        await settled(page);
        await page.waitForFunction(() => window.drawbridge.view.picture.traffic.lines.length > 0);
        await page.screenshot({path: `${shots}/picture-${width}-${scheme}.png`});
        for (const view of ['Networks', 'Guests']) { await go(page, view); await shot(page, `${view.toLowerCase()}-${width}-${scheme}`); }
        const wide = await page.evaluate(() => document.documentElement.scrollWidth);
        holds(wide <= width, `at ${width} pixels the page is ${wide} wide`);
        pages.push(page);
      }
    }
    return pages;
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  if (process.env.ONLY && !process.env.ONLY.split(',').includes(name)) continue;
  const began = Date.now();
  try {
    for (const page of await test()) {
      equal(page.complaints, [], 'the page complains');
      equal(page.strangers, [], 'it asks other hosts');
    }
    console.log(`${name}: ${Date.now() - began} ms`);
    console.log('@pass ' + name);
  } catch (e) {
    failed++;
    for (const [i, page] of browser.contexts().flatMap((c) => c.pages()).entries()) await page.screenshot({path: `${shots}/failed-${name}-${i}.png`}).catch(() => {});
    console.log(String(e.stack));
    for (const page of browser.contexts().flatMap((c) => c.pages())) if (page.complaints.length) console.log('the page said: ' + page.complaints.join('\n'));
    console.log('@fail ' + name);
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
process.exit(failed ? 1 : 0);

// The page: who is here, which view is shown, and the keys that work everywhere.

import {$, h, plural, replace, span} from './dom.js';
import {enter, get, leave, linkSecret, Problem} from './api.js';
import {Details} from './details.js';
import {listed, List, titleOf} from './lists.js';
import * as live from './live.js';
import {Picture} from './picture.js';
import * as pending from './pending.js';
import {show} from './dialogs.js';

const {state} = live;
const main = $('#main');

// Dark and light: as the system has it, unless chosen here.
function theme(choice) {
  if (choice) document.documentElement.dataset.theme = choice;
  try { if (choice) localStorage.setItem('drawbridge-theme', choice); } catch { /* then for this time */ }
}
try { theme(localStorage.getItem('drawbridge-theme')); } catch { /* as the system has it */ }

function turnTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  theme(dark ? 'light' : 'dark');
  view?.picture?.traffic.color();
}

// The tip beside what is pointed at.
const tipBox = $('#tip');
const tip = {
  show({title, lines, bad}, x, y) {
    replace(tipBox, h('b', {}, title), lines.map((l) => h('div', {}, l)), bad && h('div', {class: 'bad'}, bad));
    tipBox.hidden = false;
    this.move(x, y);
  },
  move(x, y) {
    if (tipBox.hidden) return;
    const w = tipBox.offsetWidth, hgt = tipBox.offsetHeight;
    tipBox.style.left = Math.max(6, Math.min(innerWidth - w - 6, x + 14)) + 'px';
    tipBox.style.top = (y + 16 + hgt > innerHeight ? Math.max(6, y - hgt - 12) : y + 16) + 'px';
  },
  hide() { tipBox.hidden = true; },
};

// Views.

class PictureView {
  constructor() {
    this.picture = new Picture({open: (id) => go(id), find: (id) => { location.hash = '#/findings/' + encodeURIComponent(id); }, tip});
    this.details = new Details({close: () => this.closed(), open: (id) => go(id)});
    this.el = h('div', {class: 'split'});
  }
  attach(parent) {
    parent.append(this.el);
    this.picture.attach(this.el);
    this.details.attach(this.el);
  }
  detach() { this.picture.detach(); this.details.detach(); this.el.remove(); }
  select(id) {
    this.id = id || null;
    this.details.show(this.id);
    this.picture.choose(this.id);
  }
  closed() {
    const id = this.id;
    location.hash = '#/picture';
    this.picture.focus(id);
  }
}

// Views that answer questions are loaded when they are first asked for: the picture
// does not wait for them.
const asked = {
  findings: {title: 'Findings', load: () => import('./findings.js')}, paths: {title: 'Paths', load: () => import('./paths.js')}, advice: {title: 'Advice', load: () => import('./advice.js')},
};

class AskedView {
  constructor(name) { this.name = name; }
  async attach(parent) {
    this.there = true;
    for (let tries = 0; this.there && !this.view; tries++) {
      try { this.view = new (await asked[this.name].load()).View(); } catch {
        // As in boot.js: browsers give up what they load when the host's network changes.
        // A daemon of another version has this file by another name.
        if (tries > 5) { location.reload(); return; }
        await new Promise((done) => setTimeout(done, 700));
      }
    }
    if (!this.there) return;
    this.view.attach(parent);
    this.view.select(...this.wish);
  }
  detach() {
    this.there = false;
    this.view?.detach();
  }
  select(...wish) {
    this.wish = wish;
    if (this.there) this.view?.select(...wish);
  }
}

let view = null, shown = '';

const go = (id) => { location.hash = '#/picture/' + encodeURIComponent(id); };

function route() {
  if (!state.self) return;
  const [, name = 'picture', ...rest] = location.hash.split('/');
  let wish = [];
  try { wish = rest.map(decodeURIComponent); } catch { /* not ours */ }
  const wanted = listed.includes(name) || asked[name] ? name : 'picture';
  if (wanted !== shown) {
    view?.detach();
    tip.hide();
    main.replaceChildren();
    view = wanted === 'picture' ? new PictureView() : asked[wanted] ? new AskedView(wanted) : new List(wanted);
    main.className = wanted === 'picture' ? 'is-picture' : 'is-list';
    view.select?.(...wish);
    view.attach(main);
    shown = wanted;
    document.title = (wanted === 'picture' ? '' : nameOf(wanted) + ' – ') + 'Drawbridge' + (state.self.host ? ' on ' + state.self.host : '');
    for (const a of document.querySelectorAll('#tabs a')) {
      a.toggleAttribute('aria-current', a.dataset.view === wanted);
      if (a.dataset.view === wanted) a.scrollIntoView({block: 'nearest', inline: 'nearest'}); // a telephone shows four of them
    }
  }
  view.select?.(...wish);
}

const tabs = ['picture', ...listed, ...Object.keys(asked)];
const nameOf = (name) => (name === 'picture' ? 'Picture' : asked[name]?.title || titleOf(name));

replace($('#tabs'), tabs.map((name) => h('a', {href: '#/' + name, data: {view: name}}, nameOf(name))));

// Who is here.

function greet() {
  const self = state.self;
  replace($('#host'), self?.host || '');
  const who = $('#who');
  who.hidden = !self;
  if (self) replace(who, self.read_only ? 'look only' : self.session ? 'logged in' : self.who);
}

$('#who').addEventListener('click', () => {
  const self = state.self;
  const dialog = show('Who you are', h('div', {}, h('p', {}, 'Your changes are written down as made by ', h('b', {}, self.who), self.read_only ? ', who may only look.' : '.'),
    self.session ? h('p', {}, 'This login ends after a day without use', self.until ? `, in ${span((new Date(self.until) - Date.now()) / 1000)} at the latest` : '', '. "drawbridge session ls" lists it.') : h('p', {}, 'The host’s kernel says so: no login was needed.'),
    h('footer', {}, h('button', {type: 'button', onclick: () => dialog.close()}, 'Close'), self.session && h('button', {type: 'button', class: 'danger', onclick: async () => {
      try { await leave(); } catch (e) { if (!(e instanceof Problem)) throw e; }
      location.reload();
    }}, 'Log out'))));
});

function askLogin(problem) {
  view?.detach();
  view = null;
  shown = '';
  live.set('self', null);
  const error = h('p', {class: 'error', role: 'alert', hidden: !problem}, problem || '');
  const secret = h('input', {type: 'password', name: 'secret', autocomplete: 'off', 'aria-label': 'Link or token', placeholder: 'Link or token', spellcheck: 'false'});
  main.className = 'is-login';
  replace(main, h('form', {class: 'login', onsubmit: async (e) => {
    e.preventDefault();
    const text = secret.value.trim(), word = /#login=([\w-]+)$/.exec(text)?.[1] || text;
    if (!word) return;
    try { await come(await enter(word)); } catch (refused) {
      if (!(refused instanceof Problem)) throw refused;
      error.hidden = false;
      replace(error, refused.message);
    }
  }}, h('h1', {}, 'Log in'), h('p', {}, 'On the host, run'), h('pre', {}, 'sudo drawbridge web'), h('p', {}, 'and open the link that it prints, or put it here. A token works too.'), secret, error, h('button', {class: 'primary', type: 'submit'}, 'Log in')));
  secret.focus();
}

async function come(self) {
  main.replaceChildren();
  live.set('self', self);
  route();
  live.start();
}

async function begin() {
  const secret = linkSecret();
  // Both are asked for at once: who is logged in sees the picture a round trip sooner.
  try {
    if (secret) {
      // Who is in already, over ssh for instance, keeps the link for another browser.
      const self = await get('/session').catch((e) => { if (e.status === 401) return null; throw e; });
      await come(self && !self.session ? self : await enter(secret));
      return;
    }
    live.ahead();
    await come(await get('/session'));
  } catch (e) {
    if (!(e instanceof Problem)) throw e;
    if (e.status === 401) askLogin(secret ? e.message : '');
    else replace(main, h('p', {class: 'empty'}, e.message + (e.away ? '; trying again' : '')));
    if (e.away) setTimeout(begin, 1000);
  }
}

// What is always on the page.

live.on('self', greet);
live.on('login', () => askLogin('The login has ended.'));
live.on('connected', () => {
  const lost = $('#lost');
  document.body.classList.toggle('away', !state.connected);
  lost.hidden = state.connected;
  replace(lost, state.connected ? '' : 'Connection lost, trying again. What you see is how it was.');
});
live.on('status doctor', () => {
  const st = state.status, pill = $('#health');
  if (!st) return;
  const bad = st.problems.length, found = state.doctor ? live.summary(state.doctor) : '';
  pill.hidden = false;
  pill.className = 'pill ' + (bad || found.includes('fault') ? 'problem' : found ? 'warning' : 'ok');
  replace(pill, found || (bad ? plural(bad, 'problem') : 'all well'));
  pill.title = [...st.problems, ...(state.doctor?.findings || []).filter((f) => f.severity !== 'note').map((f) => `${f.code}: ${f.seen}`)].join('\n');
});
$('#health').addEventListener('click', () => {
  if (state.doctor && live.summary(state.doctor)) { location.hash = '#/findings'; return; }
  location.hash = '#/picture';
  view?.select?.('');
});
$('#theme').addEventListener('click', turnTheme);
addEventListener('hashchange', route);
pending.start($('#pending'));

// Keys that work everywhere but where one writes.
const letters = {f: 'findings', p: 'paths', a: 'advice'};
const keys = [['1 … 9', 'the first nine views'], ['f p a', 'findings, paths, advice'], ['/', 'search'], ['arrows', 'move in the picture'], ['Enter', 'open'], ['+ − 0', 'closer, farther, all of it'], ['Esc', 'close'], ['d', 'dark or light'], ['?', 'this help']];
addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest('input, select, textarea, dialog') || !state.self) return;
  const number = Number(e.key);
  if (number >= 1 && number <= tabs.length) location.hash = '#/' + tabs[number - 1];
  else if (e.key === '/') { const search = $('input[type=search]'); if (!search) { location.hash = '#/guests'; setTimeout(() => $('input[type=search]')?.focus()); } search?.focus(); }
  else if (letters[e.key]) location.hash = '#/' + letters[e.key];
  else if (e.key === 'd') turnTheme();
  else if (e.key === '+' || e.key === '=') view?.picture?.zoom(1.3);
  else if (e.key === '-') view?.picture?.zoom(1 / 1.3);
  else if (e.key === '0') view?.picture?.fitAll(true);
  else if (e.key === 'Escape' && view?.id) view.closed();
  else if (e.key === '?') show('Keys', h('dl', {class: 'keys'}, keys.map(([k, what]) => [h('dt', {}, h('kbd', {}, k)), h('dd', {}, what)])));
  else return;
  e.preventDefault();
});

// For tests and for measuring: what is known, and nothing to change it by.
Object.defineProperty(window, 'drawbridge', {value: Object.freeze({state, get view() { return view; }})});

begin();

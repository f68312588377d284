// The picture: boxes and cables in SVG with the traffic between them on a canvas,
// to be looked around in by mouse, touch and keyboard. It is drawn anew with every
// topology, and what stayed is moved, not made again.

import {h, s, icon, iconPath, rate, replace} from './dom.js';
import {across, fit} from './fit.js';
import {doorsOf, down, placed} from './layout.js';
import {Traffic} from './traffic.js';
import {on, state, rateOf, unfold} from './live.js';

const narrow = 760; // pixels; below, the picture goes from top to bottom
const closest = 2.5, farthest = 0.08;

const pillFont = '600 11px ui-monospace, "DejaVu Sans Mono", monospace';
const nameFont = '600 13px system-ui, sans-serif', factFont = '11.5px ui-monospace, "DejaVu Sans Mono", monospace';
const farFont = '600 22px system-ui, sans-serif'; // that of page.css for names from afar

export class Picture {
  // open is called with the id of a node that is chosen, or null, find with that of
  // the finding that a cable is red for; tip shows words beside an element.
  constructor({open, find, tip, fixed}) {
    this.open = open;
    this.find = find || open;
    this.tip = tip;
    this.fixed = fixed; // a picture of something else than how it is just now
    this.boxes = new Map();
    this.drawn = new Map();
    this.wires = new Map();
    this.at = {k: 1, x: 0, y: 0};
    this.moved = false;
    this.cableLayer = s('g');
    this.nodeLayer = s('g');
    this.frame = s('rect', {class: 'frame', rx: 16, 'aria-hidden': 'true'});
    this.frameName = s('text', {class: 'frame-name', 'aria-hidden': 'true'});
    this.cables0 = s('g', {}, this.frame, this.frameName);
    this.back = s('svg', {class: 'cables', role: 'group', 'aria-label': 'Cables that something is wrong with'}, this.cables0, this.cableLayer);
    this.canvas = h('canvas', {'aria-hidden': 'true'});
    this.front = s('svg', {class: 'nodes', role: 'group', 'aria-label': 'Topology: arrow keys move along the cables, Enter opens'}, this.nodeLayer);
    this.space = h('div', {class: 'space'}, this.back, this.front);
    this.scroller = h('div', {class: 'scroller'}, this.space);
    this.tools = h('div', {class: 'tools', role: 'group', 'aria-label': 'Zoom'},
      this.tool('plus', 'Closer (+)', () => this.zoom(1.3)), this.tool('minus', 'Farther (-)', () => this.zoom(1 / 1.3)), this.tool('fit', 'All of it (0)', () => this.fitAll(true)));
    this.legend = h('div', {class: 'legend', 'aria-hidden': 'true'},
      h('span', {class: 'key down'}, 'to the guest'), h('span', {class: 'key up'}, 'from the guest'), h('span', {class: 'key dead'}, 'dead or blocked'), h('span', {class: 'key care'}, 'warning'), h('span', {class: 'key off'}, 'stopped'));
    this.el = h('div', {class: 'picture'}, this.scroller, this.canvas, this.tools, this.legend);
    this.traffic = new Traffic(this.canvas, () => this.view());
    this.sizes = new ResizeObserver(() => { if (this.measure()) this.resized(); });
    this.listen();
  }

  tool(name, label, f) { return h('button', {type: 'button', class: 'icon-button', title: label, 'aria-label': label, onclick: f}, icon(name)); }

  attach(parent) {
    parent.append(this.el);
    this.sizes.observe(this.el);
    this.leave = on('topology', () => this.draw());
    this.leaveRates = on('traffic topology', () => this.flow());
    if (this.measure()) this.resized();
    if (state.topology) this.draw();
  }

  detach() {
    this.sizes.disconnect();
    this.leave?.();
    this.leaveRates?.();
    this.el.remove();
  }

  get slim() { return !this.fixed && this.width < narrow; }

  // measure asks how large the picture is, when that may be new: to ask has the whole
  // page laid out.
  measure() {
    this.width = this.el.clientWidth;
    this.height = this.el.clientHeight;
    return this.width > 0;
  }

  view() { return this.slim ? {k: 1, x: 14, y: 14 - this.scroller.scrollTop} : this.at; }

  resized() {
    this.traffic.resize(this.width, this.height);
    const was = this.el.classList.contains('slim');
    this.el.classList.toggle('slim', this.slim);
    if (state.topology && (this.slim || was !== this.slim)) { this.moved = false; this.draw(); }
    if (!this.moved) this.fitAll();
    this.place();
  }

  // draw brings the picture up to the topology.
  draw(topology = state.topology) {
    if (!topology || !this.width) return;
    const l = this.slim ? down(topology, this.width - 28) : placed(topology);
    this.boxes = l.boxes;
    this.cables = l.cables;
    this.bounds = l;
    this.doors = this.slim ? doorsOf(topology) : new Map();
    this.frame.toggleAttribute('hidden', !l.frame);
    if (l.frame) {
      size(this.frame, l.frame.x, l.frame.y, l.frame.w, l.frame.h);
      words(this.frameName, l.frame.x + 16, l.frame.y + l.frame.h - 12, topology.host || '');
    } else words(this.frameName, 0, 0, '');
    if (!this.moved) this.fitAll();
    this.far = this.isFar();
    this.place();
    this.paint();
    if (this.current && !this.boxes.has(this.current)) this.current = null;
    this.aim(this.current || l.boxes.keys().next().value);
  }

  // paint makes and moves what can be seen: hundreds of guests are drawn at once, and
  // from afar their ports are not.
  paint() {
    const seen = [...this.boxes.values()].filter((b) => !this.far || b.node.kind !== 'port' || b.h >= 30);
    keep(this.wires, this.cables, (c) => c.id, () => s('g', {class: 'cable'}, s('path', {class: 'wire'})), (el, c) => this.paintCable(el, c), this.cableLayer);
    keep(this.drawn, seen, (b) => b.node.id, () => s('g', {class: 'node', role: 'button', tabindex: '-1'}), (el, b) => this.paintBox(el, b), this.nodeLayer);
  }

  // flow shows the traffic that was measured: that of ports.
  flow() {
    if (!this.cables) return;
    for (const c of this.cables) {
      c.flow = c.counted ? rateOf(c.counted) : null;
      // What a NIC receives goes to the guests; a switch is a link of the host's, which
      // receives what the guests send.
      if (c.flow && c.counted.startsWith('bridge:')) c.flow = {rx: c.flow.tx, tx: c.flow.rx};
    }
    if (this.fixed) return;
    this.traffic.show(this.cables.filter((c) => c.flow).map((c) => ({...c, ...c.flow})));
    for (const [id, b] of this.boxes) if (b.node.kind === 'guest') this.paintRate(this.drawn.get(id), b);
  }

  // follow leads from a cable to the finding that it is red for, else to what it leads to.
  follow(c) {
    this.tip.hide();
    if (c.finding && !this.fixed) this.find(c.finding);
    else this.open(c.to);
  }

  paintCable(el, c) {
    el.cable = c;
    // Only those that lead to a finding are met by Tab: the others are told by their ends.
    const told = c.finding && !this.fixed ? `cable to ${c.to.replace(/^\w+:/, '')}, ${wrong(c)}` : null;
    if (el.told !== told) {
      el.told = told;
      for (const [k, v] of Object.entries(told ? {role: 'link', tabindex: '0', 'aria-label': told, 'aria-hidden': null} : {role: null, tabindex: null, 'aria-label': null, 'aria-hidden': 'true'})) {
        if (v === null) el.removeAttribute(k); else el.setAttribute(k, v);
      }
    }
    const d = 'M' + c.points.map(([x, y]) => `${round(x)} ${round(y)}`).join('L');
    // From afar nobody aims at a cable with which all is well.
    const anew = (!this.far || c.health !== 'ok' || c.finding) && el.children.length < 2;
    if (anew) el.prepend(s('path', {class: 'reach'}));
    if (el.d !== d || anew) { el.d = d; for (const path of el.children) path.setAttribute('d', d); }
    setClass(el, `cable ${c.health} ${c.dashed ? 'dashed' : ''} ${c.kind || ''} ${c.mark || ''}`);
  }

  paintBox(el, b) {
    el.box = b;
    const n = b.node, mark = n.mark || '', rail = n.kind === 'bridge' && b.h < 20, pill = b.h < 30;
    const doors = n.kind === 'guest' && this.slim ? this.doors.get(n.id) : null;
    const key = [n.id, n.health, n.findings?.length, n.note, n.mode, n.network, n.addresses, n.vlans, n.owner, n.target, n.leads, n.listen, n.members, n.problems, b.w, b.h, mark, doors?.map((f) => f.id), this.far].join('|');
    const at = `translate(${round(b.x)} ${round(b.y)})`;
    if (el.at !== at) { el.at = at; el.setAttribute('transform', at); }
    if (el.key === key) return;
    el.key = key;
    setClass(el, `node ${n.kind} ${n.health} ${n.mode || ''} ${n.foreign ? 'foreign' : ''} ${rail ? 'rail' : pill ? 'pill' : ''} ${mark}`);
    el.setAttribute('aria-label', spoken(n));
    // Only what is seen is made: hundreds of guests are drawn at once.
    const text = (cls, x, y, what) => { if (what || el.parts?.has(cls)) words(part(el, 'text', cls), x, y, what); };
    if (rail) size(part(el, 'rect', 'reach'), 0, -22, b.w, 34);
    const card = part(el, 'rect', 'card');
    size(card, 0, 0, b.w, b.h);
    card.setAttribute('rx', rail || pill ? b.h / 2 : 9);
    const lines = linesOf(n).filter(Boolean);
    if (rail) {
      const title = n.network || n.name, font = this.far ? farFont : nameFont, wide = Math.min(across(title, font), b.w / 2);
      text('name', 2, -8, fit(title, font, b.w / 2));
      text('fact', 2 + wide + 10, -8, this.far ? '' : fit(lines.join(' · '), factFont, Math.max(20, b.w / 2 - 12)));
      return;
    }
    if (pill) {
      text('name', b.w / 2, b.h / 2 + 4, fit(n.kind === 'forward' ? `${n.listen} → ${n.target}` : n.kind === 'more' ? n.note : n.name, pillFont, b.w - 12));
      return;
    }
    size(part(el, 'rect', 'edge'), 0, 8, 4, b.h - 16);
    const title = n.kind === 'bridge' && n.network ? n.network : n.kind === 'lan' ? n.name.split(' ')[0] : n.kind === 'more' ? n.note : n.name;
    if (this.far) { // the name alone, as large as there is room for
      text('name', 14, b.h / 2 + 8, fit(title, farFont, b.w - 20));
      return;
    }
    const glyphs = n.kind !== 'more', left = glyphs ? 36 : 12, room = b.w - left - 8 - (doors ? 52 : 0), middle = n.kind === 'bridge' ? Math.min(b.h, 76) / 2 : b.h / 2;
    if (glyphs) {
      const glyph = part(el, 'path', 'glyph');
      glyph.setAttribute('d', iconPath(n.kind));
      glyph.setAttribute('transform', `translate(11 ${middle - 9}) scale(.75)`);
    }
    const rated = n.kind === 'guest' && b.h > 56, rows = Math.min(lines.length, b.h > 56 ? 2 : 1) + (rated ? 1 : 0), top = middle - rows * 7.5 + 4.5 + (rated ? 3 : 0);
    text('name', left, top, fit(title, nameFont, room));
    if (rated) el.rateAt = [left, top + 29];
    text('fact', left, top + 15, fit(lines[0] || '', factFont, room));
    if (!rated) text('fact more', left, top + 29, fit(rows > 1 ? lines[1] || '' : '', factFont, room));
    if (doors || el.parts.has('door')) replace(part(el, 'g', 'door'), doors ? [s('rect', {x: b.w - 58, y: b.h / 2 - 10, width: 50, height: 20, rx: 10}), s('text', {x: b.w - 33, y: b.h / 2 + 4}, doors.length > 1 ? doors.length + ' doors' : '⇥ ' + doors[0].listen.split(':').pop())] : null);
  }

  // paintRate writes the traffic of a guest into its box.
  paintRate(el, b) {
    if (!el?.rateAt || this.far) return;
    const r = rateOf(b.node.id), text = r.rx < 1 && r.tx < 1 ? '' : `↓ ${brief(r.rx)} ↑ ${brief(r.tx)} B/s`;
    if (el.rate === text) return;
    el.rate = text;
    words(part(el, 'text', 'fact rate'), ...el.rateAt, fit(text, factFont, b.w - 44));
  }

  // words say what a tip says: a title, lines, and what is wrong.
  words(x) {
    if (x.node) {
      const n = x.node, lines = [...n.addresses];
      if (n.kind === 'forward') lines.push(`to ${n.target}`, n.leads ? 'leads to ' + n.leads : '');
      if (n.mac) lines.push(n.mac);
      if (n.owner) lines.push(n.owner);
      if (n.kind === 'port' || n.kind === 'guest' || n.kind === 'nic') lines.push(traffic(rateOf(n.id)));
      for (const f of n.findings || []) if (n.note !== `${f.code}: ${f.text}`) lines.push(`${f.code}: ${f.text}`);
      return {title: n.kind === 'bridge' && n.network ? `${n.network} (${n.name})` : n.name, lines: lines.filter(Boolean), bad: wrong(n)};
    }
    const from = state.topology?.nodes.find((n) => n.id === x.from), to = state.topology?.nodes.find((n) => n.id === x.to);
    const kind = {routed: x.translated ? 'by source NAT' : 'routed', plugged: 'plugged in', attached: 'attached', stacked: 'on top of it', door: 'door'}[x.kind] || '';
    return {title: `${from?.network || from?.name || ''} – ${to?.kind === 'bridge' ? to.network || to.name : to?.name || ''}`, lines: [kind, x.flow && traffic(x.flow)].filter(Boolean), bad: wrong(x)};
  }

  // Looking around.

  place() {
    const {k, x, y} = this.at;
    if (this.slim) {
      this.space.style.height = (this.bounds?.height || 0) + 40 + 'px';
      this.nodeLayer.setAttribute('transform', 'translate(14 14)');
      this.cableLayer.setAttribute('transform', 'translate(14 14)');
      this.cables0.setAttribute('transform', 'translate(14 14)');
    } else {
      this.space.style.height = '100%';
      const t = `translate(${round(x)} ${round(y)}) scale(${k})`;
      this.nodeLayer.setAttribute('transform', t);
      this.cableLayer.setAttribute('transform', t);
      this.cables0.setAttribute('transform', t);
    }
    const far = this.isFar();
    this.el.classList.toggle('far', far);
    if (this.far === far || !this.cables) return;
    this.far = far;
    this.paint();
    this.flow();
  }

  isFar() { return !this.slim && this.at.k < 0.55; }

  fitAll(asked) {
    if (!this.bounds || this.slim) return;
    const {width: w, height: hgt} = this, pad = 36;
    const k = Math.max(farthest, Math.min(1.25, (w - 2 * pad) / this.bounds.width, (hgt - 2 * pad - 30) / this.bounds.height));
    this.at = {k, x: (w - k * this.bounds.width) / 2, y: (hgt - k * this.bounds.height) / 2};
    this.moved = false;
    if (asked) this.place();
  }

  // fitTo shows some boxes, and what is between them.
  fitTo(ids) {
    const some = ids.map((id) => this.boxes.get(id)).filter(Boolean);
    if (!some.length) return;
    const {width: w, height: hgt} = this, pad = 34;
    const left = Math.min(...some.map((b) => b.x)), top = Math.min(...some.map((b) => b.y)) - 24;
    const wide = Math.max(...some.map((b) => b.x + Math.min(b.w, 420))) - left, high = Math.max(...some.map((b) => b.y + b.h)) - top;
    const k = Math.min(1.1, (w - 2 * pad) / wide, (hgt - 2 * pad - 20) / high);
    this.at = {k, x: (w - k * wide) / 2 - k * left, y: (hgt - 20 - k * high) / 2 - k * top};
    this.place();
  }

  zoom(by, cx = this.width / 2, cy = this.height / 2) {
    const k = Math.max(farthest, Math.min(closest, this.at.k * by)), f = k / this.at.k;
    this.at = {k, x: cx - f * (cx - this.at.x), y: cy - f * (cy - this.at.y)};
    this.moved = true;
    this.place();
  }

  pan(dx, dy) {
    this.at = {...this.at, x: this.at.x + dx, y: this.at.y + dy};
    this.moved = true;
    this.place();
  }

  // reveal brings a box into sight, near enough to be read.
  reveal(b) {
    if (this.slim) { this.scroller.scrollTo({top: b.y - this.height / 2}); return; }
    const {width: w, height: hgt} = this, pad = 24;
    let {k, x, y} = this.at;
    if (k < 0.6) { k = 0.8; x = w / 2 - k * (b.x + b.w / 2); y = hgt / 2 - k * (b.y + b.h / 2); }
    x += Math.max(0, pad - (x + k * b.x)) + Math.min(0, w - pad - (x + k * (b.x + b.w)));
    y += Math.max(0, pad - (y + k * b.y)) + Math.min(0, hgt - pad - (y + k * (b.y + Math.min(b.h, 80))));
    if (x !== this.at.x || y !== this.at.y || k !== this.at.k) { this.at = {k, x, y}; this.moved = true; this.place(); }
  }

  // heed listens for all boxes and cables at once: to give hundreds of them seven
  // listeners each took longer than to draw them. It does on HTML, as an element of SVG
  // that listens to focus is one that Tab stops at.
  heed(el) {
    const of = (e) => e.target.closest('.node, .cable');
    const crossed = (e) => (of(e)?.contains(e.relatedTarget) ? null : of(e));
    el.addEventListener('pointerover', (e) => {
      const x = crossed(e);
      if (x && (x.cable || e.pointerType === 'mouse')) this.tip.show(this.words(x.box || x.cable), e.clientX, e.clientY);
    });
    el.addEventListener('pointerout', (e) => { if (crossed(e)) this.tip.hide(); });
    el.addEventListener('pointermove', (e) => { if (of(e)) this.tip.move(e.clientX, e.clientY); });
    el.addEventListener('click', (e) => { if (of(e)) this.pick(of(e)); });
    el.addEventListener('focusin', (e) => {
      const x = of(e);
      if (x?.box) this.aim(x.box.node.id);
      if (!x?.matches(':focus-visible')) return;
      if (x.box) this.reveal(x.box);
      const r = x.getBoundingClientRect();
      this.tip.show(this.words(x.box || x.cable), r.left + r.width / 2, x.box ? r.bottom + 4 : r.top + r.height / 2);
    });
    el.addEventListener('focusout', () => this.tip.hide());
    el.addEventListener('keydown', (e) => {
      const x = of(e);
      if (!x?.cable) this.key(e);
      else if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); e.stopPropagation(); this.follow(x.cable); }
    });
  }

  // pick is a click on a box or a cable.
  pick({box, cable}) {
    this.tip.hide();
    if (this.dragged) return;
    if (cable) { this.follow(cable); return; }
    if (box.node.kind === 'more') { unfold(); return; }
    this.aim(box.node.id);
    this.open(box.node.id);
  }

  listen() {
    this.heed(this.space);
    const el = this.el, fingers = new Map();
    let pinch = 0;
    el.addEventListener('wheel', (e) => {
      if (this.slim) return;
      e.preventDefault();
      const r = el.getBoundingClientRect();
      if (e.ctrlKey || !e.shiftKey) this.zoom(Math.exp(-e.deltaY * (e.deltaMode ? 0.05 : 0.0016)), e.clientX - r.left, e.clientY - r.top);
      else this.pan(-e.deltaY, 0);
    }, {passive: false});
    el.addEventListener('pointerdown', (e) => {
      this.dragged = false;
      if (this.slim || e.button > 0 || e.target.closest('button')) return;
      fingers.set(e.pointerId, [e.clientX, e.clientY]);
    });
    el.addEventListener('pointermove', (e) => {
      const was = fingers.get(e.pointerId);
      if (!was) return;
      const dx = e.clientX - was[0], dy = e.clientY - was[1];
      if (!this.dragged && Math.hypot(dx, dy) < 5) return;
      if (!this.dragged) { this.dragged = true; el.setPointerCapture(e.pointerId); this.tip.hide(); }
      fingers.set(e.pointerId, [e.clientX, e.clientY]);
      if (fingers.size === 1) { this.pan(dx, dy); return; }
      const [[ax, ay], [bx, by]] = [...fingers.values()], apart = Math.hypot(ax - bx, ay - by), r = el.getBoundingClientRect();
      if (pinch) this.zoom(apart / pinch, (ax + bx) / 2 - r.left, (ay + by) / 2 - r.top);
      pinch = apart;
    });
    for (const over of ['pointerup', 'pointercancel']) el.addEventListener(over, (e) => { fingers.delete(e.pointerId); pinch = 0; setTimeout(() => { this.dragged = false; }); });
    this.scroller.addEventListener('scroll', () => { if (!this.traffic.running) this.traffic.wake(); }, {passive: true});
  }

  // aim makes one box the one that Tab comes to.
  aim(id) {
    if (this.current !== id) this.drawn.get(this.current)?.setAttribute('tabindex', '-1');
    this.current = id;
    this.drawn.get(id)?.setAttribute('tabindex', '0');
  }

  key(e) {
    if (e.altKey || e.ctrlKey || e.metaKey || !this.current) return;
    if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); this.open(this.current); return; }
    const next = this.next(e.key);
    if (!next) return;
    e.preventDefault();
    this.aim(next);
    this.drawn.get(next).focus();
  }

  // next is the nearest box in the direction of an arrow key.
  next(key) {
    const from = this.boxes.get(this.current), [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key] || [];
    if (key === 'Home') return this.boxes.keys().next().value;
    if (dx === undefined || !from) return null;
    const middle = (b) => [b.x + b.w / 2, b.y + (b.node.kind === 'bridge' ? Math.min(b.h, 76) : b.h) / 2], [x, y] = middle(from);
    let best = null, least = Infinity;
    for (const [id, b] of this.boxes) {
      if (id === this.current || b.node.kind === 'port' && b.h < 30) continue;
      const [bx, by] = middle(b), along = (bx - x) * dx + (by - y) * dy, aside = Math.abs((bx - x) * dy) + Math.abs((by - y) * dx);
      if (along < 4) continue;
      const cost = along + aside * 2.5;
      if (cost < least) { least = cost; best = id; }
    }
    return best;
  }

  choose(id) {
    this.drawn.get(this.chosen)?.classList.remove('chosen');
    this.chosen = id;
    this.drawn.get(id)?.classList.add('chosen');
  }

  focus(id) {
    if (!this.drawn.has(id)) return;
    this.aim(id);
    this.reveal(this.boxes.get(id));
    this.drawn.get(id).focus();
  }
}

// brief is a rate for a small place, in bytes a second.
function brief(n) {
  let unit = 0;
  while (n >= 999.5) { n /= 1024; unit++; }
  return n.toFixed(n < 9.95 && unit ? 1 : 0) + ' KMGT'[unit].trim();
}

const round = (x) => Math.round(x * 10) / 10;

function size(rect, x, y, w, hgt) {
  for (const [k, v] of [['x', x], ['y', y], ['width', w], ['height', Math.max(0, hgt)]]) rect.setAttribute(k, v);
}

// part is the one child of that class, made when it is first asked for.
function part(el, tag, cls) {
  el.parts ||= new Map();
  if (!el.parts.has(cls)) {
    const child = s(tag, {class: cls});
    el.parts.set(cls, child);
    el.append(child);
  }
  return el.parts.get(cls);
}

function words(el, x, y, text) { // at a place
  el.setAttribute('x', x);
  el.setAttribute('y', y);
  if (el.textContent !== text) replace(el, text);
}

function setClass(el, names) {
  const kept = el.classList.contains('chosen') ? ' chosen' : '';
  el.setAttribute('class', names.trim().replace(/\s+/g, ' ') + kept);
}

// keep brings elements by key up to a list.
function keep(map, list, keyOf, make, paint, parent) {
  const wanted = new Set(list.map(keyOf)), made = document.createDocumentFragment();
  for (const [key, el] of map) if (!wanted.has(key)) { el.remove(); map.delete(key); }
  for (const item of list) {
    let el = map.get(keyOf(item));
    if (!el) { el = make(item); map.set(keyOf(item), el); made.append(el); }
    paint(el, item);
  }
  parent.append(made);
}

export const traffic = ({rx, tx}) => (rx < 1 && tx < 1 ? 'quiet' : `↓ ${rate(rx)}  ↑ ${rate(tx)}`);

// wrong says what is not well with a node or a cable, and why.
function wrong(x) {
  if (x.health === 'ok') return '';
  return [x.health === 'problem' && x.from ? 'dead or blocked' : x.health, x.note].filter(Boolean).join(': ');
}

const first = (list) => list.find((a) => !a.includes(':')) || list[0];

function linesOf(n) {
  switch (n.kind) {
    case 'bridge': return n.network ? [first(n.addresses) || n.name, `${n.mode} · ${n.name}${n.health === 'stopped' ? ' · stopped' : ''}`] : [first(n.addresses), n.owner || (n.foreign ? 'not made by drawbridge' : '')];
    case 'lan': return [n.addresses.length ? 'via ' + n.addresses[0] : 'LAN'];
    case 'guest': return [first(n.addresses) || n.mac || 'no address yet'];
    case 'more': return [n.problems ? n.problems + ' with a problem' : 'show them'];
    case 'nic': return [first(n.addresses) || n.mac, [n.type, n.speed_mbit ? n.speed_mbit + ' Mbit/s' : '', n.vlans?.length ? 'VLAN ' + n.vlans.join(' ') : ''].filter(Boolean).join(' · ')];
  }
  return [first(n.addresses) || n.mac || (n.kind === 'port' ? 'no guest known' : '')];
}

// spoken is what a screen reader says of a node.
function spoken(n) {
  const kind = {bridge: 'switch', lan: 'LAN', nic: 'NIC', forward: 'door', host: 'this host', more: 'folded guests'}[n.kind] || n.kind;
  return [kind, n.kind === 'more' ? n.note : n.name, n.network && n.network !== n.name ? 'network ' + n.network : '', n.mode, n.target && 'to ' + n.target, ...n.addresses, n.health === 'ok' ? '' : n.health, n.kind === 'more' ? '' : n.note].filter(Boolean).join(', ');
}

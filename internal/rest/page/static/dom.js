// Making elements, and text for people. Whatever a guest, a person or the daemon
// says gets into the document here, as text and never as markup.

const SVG = 'http://www.w3.org/2000/svg';

// h makes an element: attributes, then children (nodes, text, lists, nothing).
// A key that begins with "on" is a listener; "data" and "aria" take objects.
export function h(tag, attrs, ...children) { return fill(document.createElement(tag), attrs, children); }

// s is h for SVG.
export function s(tag, attrs, ...children) { return fill(document.createElementNS(SVG, tag), attrs, children); }

function fill(el, attrs, children) {
  for (const [key, value] of Object.entries(attrs || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) el.addEventListener(key.slice(2), value);
    else if (key === 'data' || key === 'aria') for (const [k, v] of Object.entries(value)) { if (v !== undefined && v !== null) el.setAttribute(key + '-' + k, v); }
    else if (key === 'value' || key === 'checked' || key === 'disabled' || key === 'hidden') el[key] = value;
    else el.setAttribute(key, value === true ? '' : value);
  }
  add(el, children);
  return el;
}

function add(el, children) {
  for (const c of children) {
    if (c === undefined || c === null || c === false) continue;
    if (Array.isArray(c)) add(el, c);
    else el.append(c instanceof Node ? c : visible(String(c)));
  }
}

// visible shows what would steer or hide text: controls, and characters that turn
// the direction of writing.
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, '\ufffd');
}

export function replace(el, ...children) {
  el.replaceChildren();
  add(el, children);
}

export const $ = (selector, within = document) => within.querySelector(selector);

// size writes bytes with a binary unit and three digits.
export function size(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  let unit = -1;
  while (n >= 1000 && unit < 5) { n /= 1024; unit++; }
  return `${n.toFixed(n >= 100 ? 0 : n >= 10 ? 1 : 2)} ${'KMGTPE'[unit]}iB`;
}

export function rate(n) { return n < 1 ? 'quiet' : size(n) + '/s'; }

export function span(seconds) {
  let t = Math.max(0, Math.round(seconds));
  const days = Math.floor(t / 86400), hours = Math.floor(t / 3600) % 24, minutes = Math.floor(t / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes > 0) return `${minutes} min ${t % 60} s`;
  return `${t} s`;
}

export function ago(time) {
  const t = (Date.now() - new Date(time)) / 1000;
  return t < 2 ? 'now' : span(t) + ' ago';
}

export function plural(n, what) { return `${n} ${what}${n === 1 ? '' : 's'}`; }

// toast says something that needs no answer; sort is good or bad.
export function toast(text, sort = 'good') {
  const el = h('div', {class: 'toast ' + sort, role: sort === 'bad' ? 'alert' : 'status'}, text);
  const all = document.getElementById('toasts');
  while (all.children.length > 2) all.firstChild.remove();
  all.append(el);
  setTimeout(() => el.remove(), sort === 'bad' ? 9000 : 4500);
}

// Icons, on a grid of 24.
const icons = {
  lan: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M3 12h18M12 3c3 3 3 15 0 18M12 3c-3 3-3 15 0 18',
  nic: 'M4 5h16v14H4zM8 19v-5h2v-2h4v2h2v5',
  bridge: 'M3 8h18v8H3zM6.500 12h.01M10 12h.01M13.500 12h.01M17 12h.01M7 8V5M17 16v3',
  port: 'M9 3v5M15 3v5M6 8h12v4a6 6 0 0 1-12 0zM12 18v3',
  guest: 'M3 5h18v11H3zM9 20h6M12 16v4',
  forward: 'M4 12h11M11 7l5 5-5 5M20 5v14', host: 'M5 4h14v16H5zM9 8h6M9 12h6M9 16h.01', more: 'M5 12h.01M12 12h.01M19 12h.01',
  plus: 'M12 5v14M5 12h14', minus: 'M5 12h14', fit: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5',
  close: 'M6 6l12 12M18 6L6 18',
};

export function iconPath(name) { return icons[name] || icons.guest; }

export function icon(name, px = 16) {
  return s('svg', {viewBox: '0 0 24 24', width: px, height: px, class: 'icon', 'aria-hidden': 'true'}, s('path', {d: iconPath(name)}));
}

// Traffic, drawn on a canvas between cables and boxes: small dashes that run along
// each cable, more of them and faster with more bytes a second. Nothing runs for
// those who asked for less motion, on cables without traffic, and out of sight.

const fastest = 220, slowest = 50; // pixels a second
const densest = 26, loosest = 130; // pixels between dashes
const dash = 7;

// Traffic draws the cables that cables() returns, each with its polyline and
// rates (bytes a second down, to the guest, and up).
export class Traffic {
  constructor(canvas, view) {
    this.canvas = canvas;
    this.view = view;
    this.lines = [];
    this.calm = matchMedia('(prefers-reduced-motion: reduce)');
    this.running = false;
    this.clean = true;
    this.calm.addEventListener('change', () => this.wake());
    document.addEventListener('visibilitychange', () => this.wake());
  }

  // show takes the cables anew: {points, rx, tx}.
  show(cables) {
    this.lines = cables.filter((c) => c.health !== 'problem' && c.health !== 'stopped' && (c.rx >= 1 || c.tx >= 1)).map(measure);
    this.wake();
  }

  color() {
    const style = getComputedStyle(this.canvas);
    this.down = style.getPropertyValue('--down').trim();
    this.up = style.getPropertyValue('--up').trim();
  }

  wake() {
    const go = this.lines.length > 0 && !this.calm.matches && !document.hidden && this.canvas.isConnected;
    if (!go) {
      this.running = false;
      this.clear();
      return;
    }
    this.color();
    if (this.running) return;
    this.running = true;
    const frame = (now) => {
      if (!this.running || !this.canvas.isConnected) { this.running = false; return; }
      this.draw(now / 1000);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  clear() {
    if (this.clean) return; // nothing was drawn yet, and there need be nothing to draw on
    this.clean = true;
    const ctx = this.canvas.getContext('2d');
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  resize(w, h) {
    const dpr = Math.min(2, devicePixelRatio || 1);
    this.dpr = dpr;
    if (this.canvas.width !== Math.round(w * dpr)) this.canvas.width = Math.round(w * dpr);
    if (this.canvas.height !== Math.round(h * dpr)) this.canvas.height = Math.round(h * dpr);
    this.w = w;
    this.h = h;
  }

  draw(now) {
    this.clear();
    this.clean = false;
    const ctx = this.canvas.getContext('2d'), {k, x, y} = this.view();
    ctx.setTransform(this.dpr * k, 0, 0, this.dpr * k, this.dpr * x, this.dpr * y);
    const seen = {left: -x / k, top: -y / k, right: (this.w - x) / k, bottom: (this.h - y) / k};
    ctx.lineWidth = Math.max(3, 2 / k);
    ctx.lineCap = 'round';
    // From afar fewer, longer dashes: what is a pixel apart cannot be told apart.
    const coarse = Math.max(1, 0.6 / k);
    for (const [key, color] of [['down', this.down], ['up', this.up]]) {
      ctx.strokeStyle = color;
      ctx.beginPath();
      for (const l of this.lines) {
        const flow = l[key];
        if (!flow || l.right < seen.left || l.left > seen.right || l.bottom < seen.top || l.top > seen.bottom) continue;
        const step = flow.step * coarse, offset = (now * flow.speed) % step;
        for (let at = key === 'down' ? offset : step - offset; at < l.length; at += step) piece(ctx, l, at, Math.min(l.length, at + dash * coarse));
      }
      ctx.stroke();
    }
  }
}

// measure prepares a polyline: how far along each point is, and its bounds.
function measure(c) {
  const at = [0];
  let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
  c.points.forEach(([x, y], i) => {
    if (i > 0) at.push(at[i - 1] + Math.hypot(x - c.points[i - 1][0], y - c.points[i - 1][1]));
    left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
  });
  return {points: c.points, at, length: at[at.length - 1], left, right, top, bottom, down: flow(c.rx, at[at.length - 1]), up: flow(c.tx, at[at.length - 1])};
}

// flow says how traffic looks: from 1 B/s to 1 GB/s. A cable is never without a
// dash, however short it is.
function flow(bytes, length) {
  if (!(bytes >= 1)) return null;
  const share = Math.min(1, Math.log10(bytes) / 9);
  return {speed: slowest + (fastest - slowest) * share, step: Math.min(Math.max(length, 22), loosest - (loosest - densest) * share)};
}

// piece adds the part of a line between two distances.
function piece(ctx, l, from, to) {
  let i = 1;
  while (i < l.at.length - 1 && l.at[i] < from) i++;
  const [x, y] = point(l, i, from);
  ctx.moveTo(x, y);
  while (i < l.at.length - 1 && l.at[i] < to) { ctx.lineTo(l.points[i][0], l.points[i][1]); i++; }
  const [x1, y1] = point(l, i, to);
  ctx.lineTo(x1, y1);
}

function point(l, i, at) {
  const [x0, y0] = l.points[i - 1], [x1, y1] = l.points[i], t = (at - l.at[i - 1]) / ((l.at[i] - l.at[i - 1]) || 1);
  return [x0 + (x1 - x0) * t, y0 + (y1 - y0) * t];
}

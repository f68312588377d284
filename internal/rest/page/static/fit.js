// How wide texts are, and what of them fits.

let fonts = null;
// widths are how wide each character is, by font.
const widths = new Map();

// fit cuts a text to a width in pixels: characters are measured once each, not every
// text of hundreds of guests.
export function fit(text, font, px) {
  const dots = wide('…', font);
  let x = 0, fits = 0, at = 0;
  for (const c of text) {
    x += wide(c, font);
    at += c.length;
    if (x > px) return text.slice(0, fits) + '…';
    if (x + dots <= px) fits = at;
  }
  return text;
}

function wide(c, font) {
  let known = widths.get(font);
  if (!known) widths.set(font, known = new Map());
  let px = known.get(c);
  if (px === undefined) {
    fonts ||= document.createElement('canvas').getContext('2d');
    fonts.font = font;
    if (known.size > 5000) known.clear();
    known.set(c, px = fonts.measureText(c).width);
  }
  return px;
}

// across is how wide a text is.
export const across = (text, font) => [...text].reduce((x, c) => x + wide(c, font), 0);

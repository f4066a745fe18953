// Times: as labels, and those that an answer names.

const NUMBER = String.raw`\d+(?:\.\d+)?`;
const JOINT = String.raw`\s*(?:,\s*and|,\s*or|,|and|or|to|until|-|–|—)\s*`;
const SECONDS = String.raw`${NUMBER}(?:${JOINT}${NUMBER})*\s?(?:seconds?|secs?|s)\b`;
const CLOCK = String.raw`(?:\d{1,2}:)?[0-5]?\d:[0-5]\d(?:\.\d+)?(?![\d:])`;
const FOUND = new RegExp(String.raw`(?<![\d.:])(?:${SECONDS}|${CLOCK})`, "gi");
const LENGTH = /\b(?:for|lasts?|lasting|takes?|every|within|length of)\s+(?:about |around |approximately )?$/i;

/**
 * A text cut into pieces, {text} or {text, time}: times in seconds that lie in a video of this duration.
 *
 * Known are "3.0 seconds", "3 s", "between 2.0 and 4.0 seconds", "0:03" and "1:02:03"; a length ("for 2 seconds",
 * "2 seconds long") is no time.
 */
export function pieces(text, duration) {
  const found = [];
  let end = 0;
  const add = (start, stop, time) => {
    if (!(time <= duration + 0.05)) return;
    if (start > end) found.push({ text: text.slice(end, start) });
    found.push({ text: text.slice(start, stop), time });
    end = stop;
  };
  for (const match of text.matchAll(FOUND)) {
    const [whole] = match;
    const stop = match.index + whole.length;
    if (whole.includes(":")) add(match.index, stop, fromClock(whole));
    else if (!LENGTH.test(text.slice(0, match.index)) && !/^[\s-]+long\b/.test(text.slice(stop))) {
      const numbers = [...whole.matchAll(new RegExp(NUMBER, "g"))];
      numbers.forEach((number, place) => {
        const start = match.index + number.index;
        add(start, place === numbers.length - 1 ? stop : start + number[0].length, Number(number[0]));
      });
    }
  }
  if (end < text.length) found.push({ text: text.slice(end) });
  return found;
}

/** An answer to such a question says how long something takes, not when it is. */
export const asksLength = (question) => /\bhow (?:long|much time|many (?:seconds|minutes))\b/i.test(question);

/** "1:02:03" → 3723. */
const fromClock = (text) => text.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);

/** A time as a label: "2.0 s", "1:02.5", "1:02:03.0". */
export function label(seconds, decimals = 1) {
  const scale = 10 ** decimals;
  const units = Math.round(seconds * scale);
  if (units < 60 * scale) return `${(units / scale).toFixed(decimals)} s`;
  const [hours, minutes] = [Math.floor(units / (3600 * scale)), Math.floor(units / (60 * scale)) % 60];
  const rest = (units % (60 * scale)) / scale;
  const clock = `${minutes}:${rest.toFixed(decimals).padStart(decimals + 3, "0")}`;
  return hours ? `${hours}:${clock.padStart(decimals + 6, "0")}` : clock;
}

/** Labels of rising times, with as many decimals as tell them apart. */
export function labels(times) {
  for (let decimals = 1; ; decimals++) {
    const all = times.map((time) => label(time, decimals));
    if (decimals === 3 || new Set(all).size === all.length) return all;
  }
}

const ROUNDED = 0.05 + 1e-9; // seconds by which a time that was told with one decimal may be off

/**
 * When a player shows what is told to be at a time, by the rising times that were told of frames and those to seek.
 *
 * That is a frame's own time to seek; between two frames, as far between their times.
 */
export function playerTime(frames, time) {
  const distance = (frame) => Math.abs(frame.time - time);
  const nearest = frames.reduce((best, frame) => (distance(frame) < distance(best) ? frame : best));
  if (distance(nearest) <= ROUNDED) return nearest.seek;
  const place = Math.max(0, frames.findLastIndex((frame) => frame.time < time));
  const [before, after] = [frames[place], frames[place + 1]];
  const pace = after && time > before.time ? (after.seek - before.seek) / (after.time - before.time) : 1;
  return before.seek + (time - before.time) * pace;
}

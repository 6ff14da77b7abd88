"use strict";
// What the page counts with; no part of it touches the document, so that a test can run it elsewhere.

/* SHA-256 of an ASCII string, in hex (FIPS 180-4): crypto.subtle is missing where a page is opened as a plain file. */
function sha256(text) {
  const rotate = (word, bits) => (word >>> bits) | (word << (32 - bits));
  const primes = [];
  for (let number = 2; primes.length < 64; number++) if (primes.every((prime) => number % prime)) primes.push(number);
  const fraction = (value) => Math.floor((value - Math.floor(value)) * 2 ** 32) | 0;
  const constants = primes.map((prime) => fraction(Math.cbrt(prime)));
  const hash = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
  const words = new Array((((text.length + 8) >> 6) + 1) * 16).fill(0);
  for (let place = 0; place < text.length; place++) words[place >> 2] |= text.charCodeAt(place) << (24 - 8 * (place & 3));
  words[text.length >> 2] |= 0x80 << (24 - 8 * (text.length & 3));
  words[words.length - 1] = text.length * 8;
  for (let start = 0; start < words.length; start += 16) {
    const w = words.slice(start, start + 16);
    let [a, b, c, d, e, f, g, h] = hash;
    for (let round = 0; round < 64; round++) {
      if (round >= 16) {
        const early = w[round - 15], late = w[round - 2];
        const small0 = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
        const small1 = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
        w[round] = (w[round - 16] + small0 + w[round - 7] + small1) | 0;
      }
      const big1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const first = (h + big1 + ((e & f) ^ (~e & g)) + constants[round] + w[round]) | 0;
      const big0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const second = (big0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [a, b, c, d, e, f, g, h] = [(first + second) | 0, a, b, c, (d + first) | 0, e, f, g];
    }
    [a, b, c, d, e, f, g, h].forEach((word, place) => { hash[place] = (hash[place] + word) | 0; });
  }
  return hash.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

/* What a sealed tile is: the word whose salted digest is its seal. */
function unseal(tile) {
  const truth = ["real", "synthetic"].find((word) => sha256(`${tile.salt}:${word}`) === tile.seal);
  if (!truth) throw new Error("a seal of this page fits neither real nor synthetic: the file is damaged");
  return truth;
}

/* Wilson's 95 % interval of a share. */
function wilson(count, total) {
  const z = 1.959963984540054, share = count / total, z2 = z * z;
  const middle = (share + z2 / (2 * total)) / (1 + z2 / total);
  const half = (z / (1 + z2 / total)) * Math.sqrt((share * (1 - share)) / total + z2 / (4 * total * total));
  return [count === 0 ? 0 : middle - half, count === total ? 1 : middle + half];
}

/* The confusion matrix: counts[truth][answer]. */
function confusion(truths, answers) {
  const counts = { real: { real: 0, synthetic: 0 }, synthetic: { real: 0, synthetic: 0 } };
  truths.forEach((truth, place) => { counts[truth][answers[place]] += 1; });
  return counts;
}

/* The file of answers that `factory quiz --score` reads. */
function answersDocument(data, state) {
  return {
    kind: data.kind, version: data.version, quiz: data.quiz, reader: state.reader,
    answers: state.answers.map((answer, place) => ({
      tile: place + 1, answer, seconds: state.timed ? Math.round(10 * state.seconds[place]) / 10 : null,
    })),
  };
}

/* An earlier state of this quiz if it fits, else a new one. */
function restore(text, data) {
  const fresh = {
    quiz: data.quiz, reader: "", started: false, finished: false, timed: true, place: 0,
    answers: data.tiles.map(() => null), seconds: data.tiles.map(() => 0),
  };
  try {
    const kept = JSON.parse(text);
    const count = data.tiles.length;
    const fits = kept && kept.quiz === data.quiz && typeof kept.reader === "string"
      && Array.isArray(kept.answers) && kept.answers.length === count
      && kept.answers.every((answer) => [null, "real", "synthetic"].includes(answer))
      && Array.isArray(kept.seconds) && kept.seconds.length === count
      && kept.seconds.every((value) => Number.isFinite(value) && value >= 0)
      && Number.isInteger(kept.place) && kept.place >= 0 && kept.place <= count;
    if (!fits) return fresh;
    const finished = Boolean(kept.finished) && kept.answers.every(Boolean);
    return { ...fresh, ...kept, started: Boolean(kept.started), timed: Boolean(kept.timed), finished };
  } catch {
    return fresh;
  }
}

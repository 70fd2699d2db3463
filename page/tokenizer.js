"use strict";
// CLIP's byte pairs, as tokenizer.json of the model has them: a word is cut into the pieces that
// were merged first, and each piece has a number.
class Tokenizer {
  constructor({ vocabulary, merges, length, start, end }) {
    Object.assign(this, { length, start, end });
    this.ids = new Map(vocabulary.map((token, i) => [token, i]));
    this.ranks = new Map(merges.map((pair, i) => [pair, i]));
    // GPT-2's letters for bytes: those that are seen stand for themselves, the others come after
    const seen = (b) => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    let next = 256;
    this.letters = Array.from({ length: 256 }, (_, b) => String.fromCodePoint(seen(b) ? b : next++));
  }

  // The words of a text in small letters, and what stands between them.
  words(text) {
    const small = [...text.normalize("NFC").replace(/\p{White_Space}+/gu, " ")]
      .map((letter) => letter.toLowerCase()).join(""); // one by one: no final sigma
    return small.match(/'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu) ?? [];
  }

  pieces(word) {
    const bytes = [...new TextEncoder().encode(word)];
    let parts = bytes.map((b) => this.letters[b]);
    parts[parts.length - 1] += "</w>";
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts;
      parts = [...parts.slice(0, at), parts[at] + parts[at + 1], ...parts.slice(at + 2)];
    }
  }

  // Numbers of all tokens, without those of start and end.
  tokens(text) {
    const number = (piece) => this.ids.get(piece) ?? this.ids.get(this.end);
    return this.words(text).flatMap((word) => this.pieces(word)).map(number);
  }

  // As many numbers as the text encoder takes: start, text, end, and the end again to fill up.
  encode(text) {
    const end = this.ids.get(this.end), inner = this.tokens(text).slice(0, this.length - 2);
    const ids = new Int32Array(this.length).fill(end);
    ids.set([this.ids.get(this.start), ...inner]);
    return ids;
  }

  // Words that the model never read whole.
  unknown(text) {
    return this.words(text).filter((word) => /^\p{L}/u.test(word) && this.pieces(word).length > 1);
  }
}

# Showing text while it is generated: tokens to text as soon as it is certain, and many sequences
# one after the other, in the order of their prompts, although they are generated side by side.


class TextStream:
    """Tokens in, text out. Bytes of an unfinished character are held back.

    Text is the difference between decoding a few tokens with and without the new ones: tokenizers
    may treat the first token of a text in its own way, so those before it go along.
    """

    def __init__(self, tokenizer, prompt):
        self.tokenizer = tokenizer
        self.tokens = list(prompt[-8:])
        self.shown = len(self.tokens)

    def push(self, token):
        """The text that is certain now; "" while a character is unfinished."""
        self.tokens.append(token)
        return self._text(final=False)

    def finish(self):
        """What was held back."""
        return self._text(final=True)

    def _text(self, final):
        before = self.tokenizer.decode(self.tokens[: self.shown])
        text = self.tokenizer.decode(self.tokens)
        if not final and text.endswith("\ufffd"):
            return ""
        self.tokens, self.shown = self.tokens[self.shown :] or self.tokens, 0
        self.shown = len(self.tokens)
        return text[len(before) :]


class InOrder:
    """Writes texts in the order of their numbers: the first unfinished one live, others kept."""

    def __init__(self, count, write, heading):
        self.kept = [[] for _ in range(count)]
        self.done = [False] * count
        self.current, self.write, self.heading = 0, write, heading
        if count:
            heading(0)

    def text(self, number, text):
        if number == self.current:
            self.write(text)
        else:
            self.kept[number].append(text)

    def end(self, number):
        self.done[number] = True
        while self.current < len(self.done) and self.done[self.current]:
            self.current += 1
            if self.current < len(self.done):
                self.heading(self.current)
                self.write("".join(self.kept[self.current]))
                self.kept[self.current] = []

"""Small documents of YAML that cost much to read."""


def nested(opening: str, closing: str, depth: int) -> str:
    return opening * depth + closing * depth


def tall(levels: int) -> str:
    """Depth by aliases: each line is as deep as the one before, and forty more."""
    lines = ["a0: &a0 1"]
    lines += [f"a{i}: &a{i} {'[' * 40}*a{i - 1}{']' * 40}" for i in range(1, levels)]
    return "\n".join(lines)


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["a0: &a0 {a: 1, b: 2, c: 3}"]
    lines += [
        f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}], k{i}: 1}}" for i in range(1, levels)
    ]
    return "\n".join(lines)


BOMBS = {
    "deep JSON": nested("[", "]", 2_000_000),
    "deep JSON of mappings": '{"a":' * 1_000_000,
    "deep YAML": "a: " + nested("[", "]", 2_000_000),
    "deep blocks": "\n".join(" " * i + "a:" for i in range(3000)),
    "deep sequences": "- " * 1_000_000 + "a",
    "deep keys": "? " * 1_000_000 + "a",
    "deep in depth by aliases": tall(50),
    "billion laughs": laughs(12),
    "billion merges": merges(12),
    "one anchor, named often": "a: &a [" + "x," * 50_000 + "]\nb: [" + "*a," * 50_000 + "]",
    "many values": "[" + "1," * (8 << 20) + "]",
    "many mappings": "- {a: }\n" * (600_000),
    "many documents": "---\na: 1\n" * 200_000,
    "many empty documents": "---\n" * 200_000,
    "many keys": "".join(f"k{i}: 1\n" for i in range(600_000)),
    "blank lines before a word": "\n" * 8_000_000 + "a: [",
    "a long digit": "a: " + "9" * (15 << 20),
    "a long sexagesimal": "a: " + "1:" * (7 << 20) + "1",
    "a long JSON digit": '{"a": ' + "9" * (15 << 20) + "}",
    "open quotes": 'a: "' + "\\" * (8 << 20),
    "quotes of JSON": "[" + '"' * (8 << 20),
    "more than is read": "a: " + "x" * (20 << 20),
}

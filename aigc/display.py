"""Forms of text that stand in messages and URLs."""


def printable(text: str, keep: str = "") -> str:
    """`text` with every character escaped that is not printable, such as those of names in another
    encoding or what would steer a terminal, except the characters in `keep`."""
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def netloc(host: str, port: int) -> str:
    """`host` and `port` as in a URL, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""Check a built site: every link, image and script of a page leads to a file and an anchor inside the site.

python docs/links.py build/docs

Links to other hosts are left alone; pictures, scripts and styles from other hosts are refused, so that the site can be
read without a network.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What one page links to, what it loads, and the anchors it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Called by the parser for every element."""
        known = {name: value for name, value in attributes if value}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag in ("script", "img", "source") and "src" in known:
            self.loads.append(known["src"])
        elif tag == "link" and "href" in known and known.get("rel") not in ("canonical", "search", "index"):
            self.loads.append(known["href"])
        elif tag == "a" and "href" in known:
            self.links.append(known["href"])


def broken_links(site: Path) -> list[str]:
    """One sentence per link that leads nowhere, in the order of the pages."""
    pages = {file: Page(file.read_text("utf-8")) for file in sorted(site.rglob("*.html"))}
    problems = []
    for file, page in pages.items():
        where = file.relative_to(site)
        problems += [f"{where}: loads {url} from another host" for url in page.loads if urlsplit(url).netloc]
        for url in page.links + page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                problems.append(f"{where}: {url} leads to no file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                problems.append(f"{where}: {url} leads to no anchor of its page")
    return problems


def main(argv: list[str]) -> int:
    """Print what is broken; exit code 1 if anything is."""
    site = Path(argv[0]).resolve()
    if not (site / "index.html").is_file():
        print(f"links: {site} holds no site; build it with `make docs`")
        return 2
    problems = broken_links(site)
    print("\n".join(problems) or f"links: all links of {len(list(site.rglob('*.html')))} pages lead somewhere")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

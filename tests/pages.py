"""Pages of reports, read by tests."""

import html.parser


class Page(html.parser.HTMLParser):
    """Collects the text, the tags and everything that would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href")
        self.links += [value for name, value in attrs if name in names and value and not value.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data

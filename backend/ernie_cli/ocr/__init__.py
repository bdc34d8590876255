"""``ocr``: pages, the client that has them read, and what answers become: Markdown and JSON."""

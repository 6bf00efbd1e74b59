"""`cpmv read`: pages of PDFs and pictures into Markdown or JSON, through the engine."""

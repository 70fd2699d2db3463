"""For `jupyter nbconvert --to slides --config course/slides_config.py`: slides without network."""

from pathlib import Path

c = get_config()  # noqa: F821  (nbconvert defines it)
c.SlidesExporter.template_name = "slides"
c.SlidesExporter.extra_template_basedirs = [str(Path(__file__).parent / "templates")]
c.SlidesExporter.filters = {"markdown2html": "course.markdown.to_html"}
c.SlidesExporter.reveal_url_prefix = "reveal"
c.SlidesExporter.reveal_theme = "white"
c.SlidesExporter.exclude_input = True
c.SlidesExporter.exclude_output_prompt = True
c.SlidesExporter.exclude_input_prompt = True
c.NbConvertBase.display_data_priority = ["text/html", "image/png", "text/markdown", "text/plain"]

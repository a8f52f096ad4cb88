"""Write one page about a run for people: did it work, what does G generate, what has E learned.

page            the sections in order, the file       style.css       how it looks
contents        all that is known of a run            markup          HTML from values, escaped
charts          SVG in the page's colours             header          title, verdict, facts
verdict         did it work                           samples         samples over time, reconstructions
shown_images    images that several sections show     interpolations  from image to image
memorisation    are samples copies                    probe           what the encoder learned
classes         confusion, mistakes                   feature_map     images by similarity
neighbours      nearest neighbours                    curves          logged metrics
comparison      the page that compares runs
settings        settings, environment, checkpoints    data_card       the data

Each section is a function from `contents.Run` to `markup.Html`. If something is missing, the section says so and names
the command that makes it; the page is written all the same.
"""

from bigbigan.apps.report.page import write_report

__all__ = ["write_report"]

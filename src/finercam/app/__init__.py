"""The web app: pictures in, questions asked by clicking. `questions`, `views` and `files` are plain functions; `page` is
the page around them, `serve` the server. Nothing here is imported by the rest of the library."""

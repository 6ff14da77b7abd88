"""Images to a person's annotation tool and back. Adding a tool is a file here and a line below.

A tool is a class that is never built, with ``suffix`` of its files, ``skeleton(name, size, mark) -> document``, an
annotation file without annotations, ``beside(scheme) -> {file name: content}``, what tells it the classes, and
``read(path, size) -> shapes``, in the order in which they are painted.
"""

TOOLS: dict[str, str] = {
    "qupath": "factory.annotate.qupath:QuPath",
    "labelme": "factory.annotate.labelme:Labelme",
}

"""Export of images to an annotation tool, and import of the annotations. Adding a tool is a file here and a line below.

A tool is a class that meets `factory.annotate.shapes.AnnotationTool`.
"""

TOOLS: dict[str, str] = {
    "qupath": "factory.annotate.qupath:QuPath",
    "labelme": "factory.annotate.labelme:Labelme",
}

"""Label files of other programs: read, checked, and drawn into class and instance maps.

A format is one file here that meets `factory.core.label_files.base.LabelFormat`, and one line in the table.
"""

FORMATS: dict[str, str] = {
    "geojson": "factory.core.label_files.geojson:GeoJson",
    "labelme": "factory.core.label_files.labelme:Labelme",
    "coco": "factory.core.label_files.coco:Coco",
    "hovernet": "factory.core.label_files.hovernet:HoverNet",
    "imagescope": "factory.core.label_files.imagescope:ImageScope",
    "cvat": "factory.core.label_files.cvat:Cvat",
    "cellpose": "factory.core.label_files.cellpose:Cellpose",
    "pannuke": "factory.core.label_files.stacks:PanNuke",
    "conic": "factory.core.label_files.stacks:Conic",
    "imagej": "factory.core.label_files.imagej:ImageJ",
    "colours": "factory.core.label_files.colours:Colours",
}
"""Formats by their names in ``--labels``; files are tried in this order."""

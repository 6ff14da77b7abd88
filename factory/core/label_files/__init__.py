"""Label files of other programs: read, checked, and drawn into class and instance maps.

A format is one file here that meets `factory.core.label_files.base.LabelFormat`, and one line in the table.
"""

FORMATS: dict[str, str] = {
    "geojson": "factory.core.label_files.geojson:GeoJson",
    "labelme": "factory.core.label_files.labelme:Labelme",
}
"""Formats by their names in ``--labels``; files are tried in this order."""

"""Export of a data set into the formats that other tools read. Adding a format is a file here and a line below.

A format is a class that meets `factory.export.base.Format`.
"""

FORMATS: dict[str, str] = {
    "png": "factory.export.png:Png",
    "coco": "factory.export.coco:Coco",
    "qupath": "factory.export.qupath:QuPath",
    "pannuke": "factory.export.pannuke:PanNuke",
    "nnunet": "factory.export.nnunet:NnUnet",
    "hf": "factory.export.hf:HuggingFace",
    "webdataset": "factory.export.webdataset:WebDataset",
    "yolo": "factory.export.yolo:Yolo",
    "ome-zarr": "factory.export.ome_zarr:OmeZarr",
    "croissant": "factory.export.croissant:Croissant",
}

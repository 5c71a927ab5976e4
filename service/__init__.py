"""The HTTP service: registry of prompts and tasks, fits of ensembles, and classification.

`main` is the composition root, `composition` and `app` make the application, and each package
imports only those named after it:

* `processes`: fronts and engine in processes of their own;
* `routes`: one file a group;
* `oip`, `registry` and `report`: the Open Inference Protocol, what the registry's routes share, and
  the page of a fit;
* `metrics`;
* `http_server`, which knows uvicorn, and `inference`, which is free of HTTP.

`errors` is the one place where a package's error becomes a problem document.
"""

"""The part of ernie-triton that runs inside Triton's Python stub.

    execute() -> request_tensors -> in_flight -> engine process
    engine process -> engine_supervisor -> in_flight -> response_stream -> Triton

``triton_model`` has the class that Triton calls; ``engine_supervisor`` starts and watches the engine process.
The package needs only the standard library, NumPy and ``ernie_wire``, and runs from PYTHONPATH without
installation.
"""

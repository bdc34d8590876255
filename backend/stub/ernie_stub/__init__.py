"""The Triton side of ernie-triton: it runs inside Triton's Python stub and stays thin.

    execute() -> request_tensors -> in_flight -> engine process
    engine process -> engine -> in_flight -> answer -> senders -> Triton

``triton_model`` holds the class that Triton calls, ``engine`` starts and supervises the engine process. This
package needs the standard library, numpy and ``ernie_wire`` only, and works from PYTHONPATH alone: it must
not know the engine's code, a tokenizer or a model.
"""

"""Engines: one small class per runtime, all with the same face (:class:`~trt_landmarks.engines.base.Engine`)."""

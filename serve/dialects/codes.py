"""What errors there are: the stable codes of every status, for programs."""

ERRORS = {
    400: "malformed_body, malformed_header, idempotency_key_malformed, malformed_image,"
    " malformed_sound, n_out_of_range, n_over_burst, seed_out_of_range,"
    " first_index_out_of_range, frames_out_of_range, frame_duration_out_of_range,"
    " label_out_of_range, label_count, label_not_supported, format_needs_one_sample,"
    " format_needs_image, format_needs_sound, format_needs_text,"
    " signature_needs_input, unknown_setting, setting_out_of_range, stop_not_supported,"
    " stop_out_of_range, unknown_input, unknown_output, malformed_input, inputs_count,"
    " unknown_characters, text_too_long, input_too_long, end_missing, ends_twice, no_effect,"
    " unsupported_value, unknown_prompt, prompt_contradicts_label, model_gives_no_image,"
    " model_gives_no_sound, model_gives_no_text or artifact_scheme. The Open Inference Protocol has"
    " no codes: its message says what is wrong.",
    401: "key_needed or unknown_key.",
    403: "scope_needed, or no_keys for the admin routes of a server that has none.",
    404: "unknown_model, unknown_signature or unknown_route.",
    405: "method_not_allowed; the Allow header names the methods that are.",
    408: "body_too_slow, or HAProxy's own words where the head is.",
    409: "artifact_refused or target_refused: what is served stays.",
    413: "body_too_large.",
    415: "compressed_body or content_type.",
    422: "idempotency_key_reused: it came with another request before.",
    429: "rate_limited or concurrency_limited, by the key's budget; Retry-After says until when.",
    500: "internal: the server's fault; its log says why.",
    504: "deadline_exceeded: it could not be begun within X-Request-Timeout.",
    503: "overloaded, not_ready, shutting_down, pool_unavailable or unavailable; Retry-After says"
    " when to try again.",
}

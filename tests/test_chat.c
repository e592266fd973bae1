/* Chat templates: recognition, renderings, errors. */
#include <jansson.h>

#include "core/util.h"
#include "model/chat.h"
#include "util.h"

static char *render(enum ps_chat_family family, const char *json)
{
    char *text = NULL;
    struct ps_error err = {0};
    if (ps_chat_render(family, json, &text, &err) < 0)
        fail_msg("%s: %s", err.where, err.text);
    assert_non_null(text);
    return text;
}

static void expect(enum ps_chat_family family, const char *json, const char *want)
{
    char *text = render(family, json);
    assert_string_equal(text, want);
    free(text);
}

static void expect_error(enum ps_chat_family family, const char *json, int code, const char *says)
{
    char *text = NULL;
    struct ps_error err = {0};
    int rc = ps_chat_render(family, json, &text, &err);
    if (rc != -code || !strstr(err.text, says))
        fail_msg("%s: %d, \"%s\" does not say \"%s\"", json, rc, err.text, says);
    assert_null(text);
}

/* ---- recognition ------------------------------------------------------------------------------
 */

static enum ps_chat_family detect(const char *text)
{
    return ps_chat_detect(text, strlen(text));
}

static void recognition(void **state)
{
    (void)state;
    assert_int_equal(detect(""), PS_CHAT_NONE);
    assert_int_equal(detect("{{ messages }}"), PS_CHAT_NONE);
    assert_int_equal(detect("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
                            "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
                            "assistant\n{% endif %}"),
                     PS_CHAT_CHATML);
    assert_int_equal(detect("{% for message in messages %}{{'<|im_start|>' + message['role'] + "
                            "'\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
                            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
                            "{% endif %}"),
                     PS_CHAT_CHATML);
    /* The same with a default system text, with trimming, or without the newline. */
    assert_int_equal(detect("{% for m in messages %}{% if loop.first %}<|im_start|>system\nYou are "
                            "kind.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}"
                            "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
                            "assistant\n{% endif %}"),
                     PS_CHAT_NONE);
    assert_int_equal(detect("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|trim }}"
                            "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
                            "assistant\n{% endif %}"),
                     PS_CHAT_NONE);
    assert_int_equal(detect("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
                            "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>"
                            "assistant\n{% endif %}"),
                     PS_CHAT_NONE);
    assert_string_equal(ps_chat_family_name(PS_CHAT_NONE), "");
    assert_string_equal(ps_chat_family_name(PS_CHAT_CHATML), "chatml");
    assert_string_equal(ps_chat_family_name(PS_CHAT_QWEN3), "qwen3");
    assert_string_equal(ps_chat_family_name(PS_CHAT_QWEN3_5), "qwen3.5");
}

/* The phrases by which the Qwen families are known, in the order in which their templates have
 * them; one phrase less, or a revision that renders otherwise, is not known. */
static void recognition_of_qwen(void **state)
{
    (void)state;
    static const char *const qwen3_5[] = {"raise_exception('No user query found in messages.')",
                                          "{%- if loop.index0 > ns.last_query_index %}",
                                          "'<tool_call>\\n<function='",
                                          "else args_value | string %}",
                                          "enable_thinking is false %}",
                                          "{{- '<think>\\n' }}"};
    static const char *const qwen3[] = {
        "{\\\"name\\\": <function-name>, \\\"arguments\\\": <args-json-object>}",
        "{%- if loop.index0 > ns.last_query_index %}",
        "{%- if loop.last or (not loop.last and reasoning_content) %}",
        "enable_thinking is false %}", "{{- '<think>\\n\\n</think>\\n\\n' }}"};
    for (size_t without = 0; without <= PS_ARRAY_LEN(qwen3_5); without++) {
        char text[1024] = "<|im_start|><|im_end|>\n add_generation_prompt assistant ";
        for (size_t i = 0; i < PS_ARRAY_LEN(qwen3_5); i++)
            strcat(text, i == without ? "think" : qwen3_5[i]);
        assert_int_equal(detect(text),
                         without < PS_ARRAY_LEN(qwen3_5) ? PS_CHAT_NONE : PS_CHAT_QWEN3_5);
    }
    for (size_t without = 0; without <= PS_ARRAY_LEN(qwen3); without++) {
        char text[1024] = "<|im_start|><|im_end|>\n add_generation_prompt assistant ";
        for (size_t i = 0; i < PS_ARRAY_LEN(qwen3); i++)
            strcat(text, i == without ? "think" : qwen3[i]);
        assert_int_equal(detect(text),
                         without < PS_ARRAY_LEN(qwen3) ? PS_CHAT_NONE : PS_CHAT_QWEN3);
    }
}

static void demo_template(void **state)
{
    (void)state;
    json_t *config = json_load_file(PS_DEMO_DIR "/hf/tokenizer_config.json", 0, NULL);
    if (!config)
        PS_SKIP_ONE("no demo model in " PS_DEMO_DIR);
    assert_int_equal(detect(json_string_value(json_object_get(config, "chat_template"))),
                     PS_CHAT_CHATML);
    json_decref(config);
}

/* ---- ChatML -----------------------------------------------------------------------------------
 */

static void chatml(void **state)
{
    (void)state;
    expect(PS_CHAT_CHATML,
           "{\"messages\":[{\"role\":\"system\",\"content\":\" Be. \"},"
           "{\"role\":\"user\",\"content\":\"Hi\\n\"}]}",
           "<|im_start|>system\n Be. <|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n"
           "<|im_start|>assistant\n");
    expect(PS_CHAT_CHATML,
           "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
           "\"text\":\"a\"},{\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":"
           "null},{\"role\":\"user\"}],\"add_generation_prompt\":false}",
           "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
           "<|im_start|>user\n<|im_end|>\n");
}

/* ---- Qwen3 ------------------------------------------------------------------------------------
 */

static void qwen3(void **state)
{
    (void)state;
    const char *hi = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    char text[256];
    expect(PS_CHAT_QWEN3, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", hi);
    expect(PS_CHAT_QWEN3,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
           "\"enable_thinking\":true}",
           hi);
    snprintf(text, sizeof(text), "<|im_end|>\n%s", hi);
    expect(PS_CHAT_QWEN3,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
           "\"continues\":true}",
           text);
    snprintf(text, sizeof(text), "%s<think>\n\n</think>\n\n", hi);
    expect(PS_CHAT_QWEN3,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
           "\"enable_thinking\":false}",
           text);
    /* Nothing is trimmed; a system message may come later; old thoughts go. */
    expect(
        PS_CHAT_QWEN3,
        "{\"messages\":[{\"role\":\"system\",\"content\":\" S \"},{\"role\":\"user\",\"content\":"
        "\" 1 \"},{\"role\":\"assistant\",\"content\":\"<think>\\nold\\n</think>\\n\\none\"},"
        "{\"role\":\"system\",\"content\":\"T\"},{\"role\":\"user\",\"content\":\"2\"}]}",
        "<|im_start|>system\n S <|im_end|>\n<|im_start|>user\n 1 <|im_end|>\n"
        "<|im_start|>assistant\none<|im_end|>\n<|im_start|>system\nT<|im_end|>\n"
        "<|im_start|>user\n2<|im_end|>\n<|im_start|>assistant\n");
    /* The last turn always has a thought, if an empty one. */
    expect(PS_CHAT_QWEN3,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"1\"},{\"role\":\"assistant\","
           "\"content\":\"\\n\\none\"}],\"add_generation_prompt\":false}",
           "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\none"
           "<|im_end|>\n");
    expect(PS_CHAT_QWEN3,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"1\"},{\"role\":\"assistant\","
           "\"content\":\"one\",\"reasoning_content\":\"\\nr\\n\"}],"
           "\"add_generation_prompt\":false}",
           "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n<think>\nr\n</think>\n\none"
           "<|im_end|>\n");
}

static void qwen3_tools(void **state)
{
    (void)state;
    /* A tool's result is not a query: the thought of the turn that called it stays. */
    expect(
        PS_CHAT_QWEN3,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":"
        "\"W?\"},{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":\"r\","
        "\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
        "{\"a\":[1,2.5],\"b\":\"\xC3\xA9\\n\"}}},{\"function\":{\"name\":\"g\",\"arguments\":"
        "\"{\\\"x\\\":1}\"}}]},{\"role\":\"tool\",\"content\":\"cold\"},{\"role\":\"tool\","
        "\"content\":\"warm\"},{\"role\":\"assistant\",\"content\":\"Mild.\",\"tool_calls\":"
        "[{\"name\":\"h\"}]},{\"role\":\"user\",\"content\":\"<tool_response>\\nx\\n"
        "</tool_response>\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}",
        "<|im_start|>system\nS\n\n# Tools\n\nYou may call one or more functions to assist with "
        "the user query.\n\nYou are provided with function signatures within <tools></tools> XML "
        "tags:\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\"}}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, "
        "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n"
        "<|im_start|>user\nW?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nr\n</think>\n\n<tool_call>\n{\"name\": \"f\", "
        "\"arguments\": {\"a\": [1, 2.5], \"b\": \"\xC3\xA9\\n\"}}\n</tool_call>\n<tool_call>\n"
        "{\"name\": \"g\", \"arguments\": {\"x\":1}}\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\ncold\n</tool_response>\n<tool_response>\nwarm\n"
        "</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nMild.\n<tool_call>\n{\"name\": \"h\", \"arguments\": {}}\n"
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nx\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n");
}

/* ---- Qwen3.5 ----------------------------------------------------------------------------------
 */

static void qwen3_5_golden(void **state)
{
    (void)state;
    json_t *cases = json_load_file(PS_GOLDEN_DIR "/chat/qwen35_chat.json", 0, NULL), *entry;
    size_t i;
    if (!cases)
        PS_SKIP_ONE("no reference renderings in " PS_GOLDEN_DIR);
    assert_true(json_array_size(cases) >= 12);
    json_array_foreach(cases, i, entry)
    {
        char *json = json_dumps(json_object_get(entry, "input"), JSON_COMPACT);
        expect(PS_CHAT_QWEN3_5, json, json_string_value(json_object_get(entry, "output")));
        free(json);
    }
    json_decref(cases);
}

static void qwen3_5(void **state)
{
    (void)state;
    expect(
        PS_CHAT_QWEN3_5,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"\xE3\x80\x80S\\n\"},{\"role\":\"user\","
        "\"content\":\" 1 \\u001f\"},{\"role\":\"assistant\",\"content\":\"<think>\\nold\\n"
        "</think>\\n\\none\"},{\"role\":\"user\",\"content\":\"2\"},{\"role\":\"assistant\","
        "\"content\":\"<think> new </think>two\"}]}",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n1<|im_end|>\n"
        "<|im_start|>assistant\none<|im_end|>\n<|im_start|>user\n2<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nnew\n</think>\n\ntwo<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n");
    /* Arguments as the API has them: JSON in a string. Scalars as Python writes them. */
    expect(PS_CHAT_QWEN3_5,
           "{\"messages\":[{\"role\":\"user\",\"content\":\"go\"},{\"role\":\"assistant\","
           "\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
           "\"{\\\"n\\\": 1e16, \\\"m\\\": 0.0001, \\\"k\\\": 100.0, \\\"t\\\": true}\"}},"
           "{\"function\":{\"name\":\"g\"}}]}],\"add_generation_prompt\":false}",
           "<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
           "<tool_call>\n<function=f>\n<parameter=n>\n1e+16\n</parameter>\n<parameter=m>\n0.0001\n"
           "</parameter>\n<parameter=k>\n100.0\n</parameter>\n<parameter=t>\nTrue\n</parameter>\n"
           "</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
           "<|im_end|>\n");
}

/* Numbers and strings as CPython's json.dumps(ensure_ascii=False) writes them. */
static void python_values(void **state)
{
    (void)state;
    static const char *const values[][2] = {
        {"0.1", "0.1"},
        {"1.0", "1.0"},
        {"-0.0", "-0.0"},
        {"1e15", "1000000000000000.0"},
        {"123456789012345680.0", "1.2345678901234568e+17"},
        {"1e22", "1e+22"},
        {"1.5e-5", "1.5e-05"},
        {"0.00012", "0.00012"},
        {"1e-7", "1e-07"},
        {"5e-324", "5e-324"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"9007199254740993", "9007199254740993"},
        {"-7", "-7"},
        {"[]", "[]"},
        {"{}", "{}"},
        {"[null,true,false]", "[null, true, false]"},
        {"{\"z\":1,\"a\":{\"b\":[1,[2]]}}", "{\"z\": 1, \"a\": {\"b\": [1, [2]]}}"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\\u00e9\"",
         "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7F\xC3\xA9\""},
        {"\"<&'>\"", "\"<&'>\""}};
    for (size_t i = 0; i < PS_ARRAY_LEN(values); i++) {
        char json[512], want[512];
        snprintf(json, sizeof(json),
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},"
                 "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"name\":\"f\","
                 "\"arguments\":{\"v\":%s}}]}],\"add_generation_prompt\":false}",
                 values[i][0]);
        snprintf(want, sizeof(want),
                 "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
                 "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"v\": %s}}"
                 "\n</tool_call><|im_end|>\n",
                 values[i][1]);
        expect(PS_CHAT_QWEN3, json, want);
    }
}

/* ---- errors -----------------------------------------------------------------------------------
 */

static void errors(void **state)
{
    (void)state;
    static const enum ps_chat_family all[] = {PS_CHAT_CHATML, PS_CHAT_QWEN3, PS_CHAT_QWEN3_5};
    for (size_t i = 0; i < PS_ARRAY_LEN(all); i++) {
        expect_error(all[i], "{", PS_ERR_ARGUMENT, "JSON");
        expect_error(all[i], "[]", PS_ERR_ARGUMENT, "message");
        expect_error(all[i], "{\"messages\":[]}", PS_ERR_ARGUMENT, "at least one message");
        expect_error(all[i], "{\"messages\":[7]}", PS_ERR_ARGUMENT, "Message 0");
        expect_error(all[i], "{\"messages\":[{\"role\":\"user\",\"content\":7}]}", PS_ERR_ARGUMENT,
                     "Message 0");
        expect_error(all[i],
                     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}"
                     "]}",
                     PS_ERR_ARGUMENT, "not text");
        expect_error(all[i], "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":7}",
                     PS_ERR_ARGUMENT, "list");
        expect_error(all[i],
                     "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
                     "\"enable_thinking\":\"no\"}",
                     PS_ERR_ARGUMENT, "true or false");
    }
    expect_error(PS_CHAT_NONE, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                 PS_ERR_UNSUPPORTED, "template");
    const char *lone = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}";
    expect_error(PS_CHAT_QWEN3_5, lone, PS_ERR_ARGUMENT, "no user query");
    expect_error(PS_CHAT_QWEN3_5,
                 "{\"messages\":[{\"role\":\"user\",\"content\":"
                 "\" <tool_response>x</tool_response> \"}]}",
                 PS_ERR_ARGUMENT, "no user query");
    expect_error(PS_CHAT_QWEN3_5,
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                 "{\"role\":\"system\",\"content\":\"b\"}]}",
                 PS_ERR_ARGUMENT, "must be the first");
    const char *role =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"robot\"}]}";
    expect_error(PS_CHAT_QWEN3_5, role, PS_ERR_ARGUMENT, "role");
    expect_error(PS_CHAT_QWEN3, role, PS_ERR_ARGUMENT, "role");
    const char *call = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":"
                       "\"assistant\",\"tool_calls\":[{\"function\":{}}]}]}";
    expect_error(PS_CHAT_QWEN3_5, call, PS_ERR_ARGUMENT, "function name");
    expect_error(PS_CHAT_QWEN3, call, PS_ERR_ARGUMENT, "function name");
    expect_error(PS_CHAT_QWEN3_5,
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":"
                 "\"assistant\",\"tool_calls\":[{\"name\":\"f\",\"arguments\":"
                 "\"[1]\"}]}]}",
                 PS_ERR_ARGUMENT, "not an object");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recognition),    cmocka_unit_test(recognition_of_qwen),
        cmocka_unit_test(demo_template),  cmocka_unit_test(chatml),
        cmocka_unit_test(qwen3),          cmocka_unit_test(qwen3_tools),
        cmocka_unit_test(qwen3_5_golden), cmocka_unit_test(qwen3_5),
        cmocka_unit_test(python_values),  cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}

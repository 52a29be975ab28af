"""Side files of a tokenizer in many variants: what tests/e2e/test_side_files.py tries, and tests/reference/make_side_vectors.py asks
transformers about. A variant: tc (tokenizer_config.json, None: no such file), and perhaps stm (special_tokens_map.json), aj
(added_tokens.json), tj (another tokenizer.json than demo-reward's)."""
import copy
import json
import pathlib

MODELS = pathlib.Path(__file__).resolve().parents[1] / "models"
BASE = json.loads((MODELS / "demo-reward/tokenizer.json").read_text())
TYPES = ["qwen2", "qwen3", "llama", "mistral"]
TEXTS = ["Hello<x>world <y> z<|endoftext|>a<|im_end|> b", " <x> a<extra_0>  b<z>1234 <|pad|><unk> e\u0301 <s>q", "<y><x>ab",
         "123456 <|im_start|> tail "]


def at(content,**k): return {"content":content,"lstrip":False,"rstrip":False,"single_word":False,"normalized":False,"special":True,**k}
def AT(content,**k): return {"__type":"AddedToken",**at(content,**k)}
VARIANTS = {}
VARIANTS['none']=dict(tc=None)
VARIANTS['empty']=dict(tc={})
VARIANTS['cls']=dict(tc={"tokenizer_class":"Qwen2Tokenizer"})
VARIANTS['cls-flags']=dict(tc={"tokenizer_class":"Qwen2Tokenizer","eos_token":"<|im_end|>","additional_special_tokens":[AT("<x>",lstrip=True,rstrip=True),AT("<y>",rstrip=True)]})
VARIANTS['cls-fast-flags']=dict(tc={"tokenizer_class":"Qwen2TokenizerFast","pad_token":AT("<x>",lstrip=True)})
VARIANTS['fastcls']=dict(tc={"tokenizer_class":"PreTrainedTokenizerFast"})
VARIANTS['llamacls']=dict(tc={"tokenizer_class":"LlamaTokenizerFast"})
VARIANTS['tbcls']=dict(tc={"tokenizer_class":"TokenizersBackend"})
VARIANTS['extra-list']=dict(tc={"extra_special_tokens":["<x>","<y>"]})
VARIANTS['extra-dict']=dict(tc={"extra_special_tokens":{"a_token":"<x>","b":"<y>"}})
VARIANTS['addl']=dict(tc={"additional_special_tokens":["<x>","<y>"]})
VARIANTS['addl-known']=dict(tc={"additional_special_tokens":["<|im_start|>","<|im_end|>"]})
VARIANTS['addl-dicts']=dict(tc={"additional_special_tokens":[AT("<x>",lstrip=True),AT("<y>",rstrip=True)]})
VARIANTS['extra-objs']=dict(tc={"extra_special_tokens":[AT("<x>",lstrip=True)]})
VARIANTS['decoder']=dict(tc={"added_tokens_decoder":{"299":at("<x>"),"300":at("<y>")}})
VARIANTS['decoder-far']=dict(tc={"added_tokens_decoder":{"305":at("<x>"),"310":at("<y>")}})
VARIANTS['decoder-order']=dict(tc={"added_tokens_decoder":{"300":at("<x>"),"299":at("<y>")}})
VARIANTS['decoder-same']=dict(tc={"added_tokens_decoder":{str(t["id"]):{k:v for k,v in t.items() if k!='id'} for t in BASE["added_tokens"]}})
VARIANTS['decoder-flags']=dict(tc={"added_tokens_decoder":{"297":at("<|im_end|>",lstrip=True,rstrip=True)}})
VARIANTS['decoder-plain']=dict(tc={"added_tokens_decoder":{"299":at("<x>",special=False,normalized=True)}})
VARIANTS['bos']=dict(tc={"bos_token":"<s>"})
VARIANTS['eos-known']=dict(tc={"eos_token":"<|im_end|>","pad_token":"<|endoftext|>"})
VARIANTS['pad-new']=dict(tc={"pad_token":"<|pad|>"})
VARIANTS['unk-new']=dict(tc={"unk_token":"<unk>"})
VARIANTS['all-new']=dict(tc={"pad_token":"<|pad|>","unk_token":"<unk>","bos_token":"<s>","extra_special_tokens":["<x>"],"added_tokens_decoder":{"299":at("<y>")}})
VARIANTS['pad-obj']=dict(tc={"pad_token":AT("<x>",lstrip=True)})
VARIANTS['eos-obj-known']=dict(tc={"eos_token":AT("<|im_end|>",rstrip=True)})
VARIANTS['x_token']=dict(tc={"x_token":"<x>","image_token":"<y>"})
VARIANTS['stm']=dict(tc={}, stm={"pad_token":"<x>","additional_special_tokens":["<y>"]})
VARIANTS['stm-dec']=dict(tc={"added_tokens_decoder":{"299":at("<z>")}}, stm={"pad_token":"<x>","additional_special_tokens":["<y>"]})
VARIANTS['stm-objs']=dict(tc={}, stm={"eos_token":at("<|im_end|>",rstrip=True),"pad_token":at("<x>",lstrip=True)})
VARIANTS['stm-none']=dict(tc=None, stm={"pad_token":"<x>","additional_special_tokens":["<y>"]})
VARIANTS['addedjson']=dict(tc={}, aj={"<x>":299,"<y>":300})
VARIANTS['addedjson-special']=dict(tc={"pad_token":"<x>"}, aj={"<x>":299,"<y>":300})
VARIANTS['split']=dict(tc={"split_special_tokens":True})
VARIANTS['split-extra']=dict(tc={"split_special_tokens":True,"extra_special_tokens":["<x>"]})
VARIANTS['prefix']=dict(tc={"add_prefix_space":True})
VARIANTS['bosflag']=dict(tc={"add_bos_token":True,"bos_token":"<|im_start|>","add_eos_token":True,"eos_token":"<|im_end|>"})
VARIANTS['bosnull']=dict(tc={"bos_token":None,"unk_token":None,"eos_token":"<|im_end|>","pad_token":"<|endoftext|>","errors":"replace","clean_up_tokenization_spaces":False,"model_max_length":4,"split_special_tokens":False,"add_prefix_space":False,"tokenizer_class":"Qwen2Tokenizer"})
VARIANTS['padnull']=dict(tc={"pad_token":None,"eos_token":None})
VARIANTS['maxlen']=dict(tc={"model_max_length":4,"truncation_side":"left","padding_side":"left","max_length":4})
VARIANTS['legacy']=dict(tc={"legacy":False,"from_slow":True,"use_fast":False})
def tj(f):
    t=copy.deepcopy(BASE); f(t); return t
def drop(t,*names): t["added_tokens"]=[a for a in t["added_tokens"] if a["content"] not in names]
VARIANTS['tj-trunc']=dict(tc={}, tj=tj(lambda t:t.update(truncation={"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0})))
VARIANTS['tj-pad']=dict(tc={}, tj=tj(lambda t:t.update(padding={"strategy":{"Fixed":64},"direction":"Right","pad_to_multiple_of":None,"pad_id":295,"pad_type_id":0,"pad_token":"<|endoftext|>"})))
VARIANTS['tj-padnew']=dict(tc={}, tj=tj(lambda t:t.update(padding={"strategy":"BatchLongest","direction":"Right","pad_to_multiple_of":None,"pad_id":295,"pad_type_id":0,"pad_token":"<x>"})))
VARIANTS['no-eot']=dict(tc={}, tj=tj(lambda t:drop(t,"<|endoftext|>")))
VARIANTS['no-eot-named']=dict(tc={"eos_token":"<|im_end|>","pad_token":"<|im_end|>","unk_token":"<|im_end|>"}, tj=tj(lambda t:drop(t,"<|endoftext|>")))
VARIANTS['no-added']=dict(tc={}, tj=tj(lambda t:drop(t,"<|endoftext|>","<|im_start|>","<|im_end|>","<extra_0>")))
VARIANTS['no-extra']=dict(tc={}, tj=tj(lambda t:drop(t,"<extra_0>")))
VARIANTS['no-extra-dec']=dict(tc={"added_tokens_decoder":{"298":at("<extra_0>")}}, tj=tj(lambda t:drop(t,"<extra_0>")))
VARIANTS['no-extra-list']=dict(tc={"extra_special_tokens":["<extra_0>"]}, tj=tj(lambda t:drop(t,"<extra_0>")))
VARIANTS['no-mid-dec']=dict(tc={"added_tokens_decoder":{"295":at("<|endoftext|>"),"296":at("<|im_start|>"),"297":at("<|im_end|>"),"298":at("<extra_0>")}}, tj=tj(lambda t:drop(t,"<extra_0>","<|im_start|>")))
VARIANTS['no-nfc']=dict(tc={}, tj=tj(lambda t:t.update(normalizer=None)))
def digits(t): t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]=t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].replace("\\p{N}|","\\p{N}{1,3}|",1)
VARIANTS['digits3']=dict(tc={}, tj=tj(digits))
VARIANTS['ignore']=dict(tc={}, tj=tj(lambda t:t["model"].update(ignore_merges=True)))
def prep(t,*a,**k):
    o=[{"SpecialToken":{"id":"B","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]
    t["post_processor"]={"type":"TemplateProcessing","single":o,"pair":o+[{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"B":{"id":"B","ids":[296],"tokens":["<|im_start|>"]}}}
VARIANTS['tmpl']=dict(tc={}, tj=tj(prep))
VARIANTS['tmpl-bos']=dict(tc={"bos_token":"<|im_end|>","add_bos_token":True}, tj=tj(prep))
def flags(**k):
    def f(t): t["added_tokens"][2].update(k)
    return f
for k in ('lstrip','rstrip','normalized','single_word'):
    VARIANTS['tj-'+k]=dict(tc={}, tj=tj(flags(**{k:True})))
    VARIANTS['tj-plain-'+k]=dict(tc={}, tj=tj(flags(**{k:True,'special':False})))
    VARIANTS['tj-'+k+'-named']=dict(tc={"eos_token":"<|im_end|>"}, tj=tj(flags(**{k:True})))
VARIANTS['tj-plain']=dict(tc={}, tj=tj(flags(special=False)))
VARIANTS['tj-plain-named']=dict(tc={"eos_token":"<|im_end|>"}, tj=tj(flags(special=False,normalized=True)))
VARIANTS['tj-normalizednew-tc']=dict(tc={"extra_special_tokens":["<|im_end|>"]}, tj=tj(flags(normalized=True,lstrip=True,special=False)))
VARIANTS['post-none']=dict(tc={"bos_token":"<|im_start|>"}, tj=tj(lambda t:t.update(post_processor=None)))
VARIANTS['post-none-bos']=dict(tc={"bos_token":"<|im_start|>","add_bos_token":True}, tj=tj(lambda t:t.update(post_processor=None)))
VARIANTS['prefix-tj']=dict(tc={}, tj=tj(lambda t:t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True)))
VARIANTS['fuse']=dict(tc={}, tj=tj(lambda t:t["model"].update(fuse_unk=True)))
VARIANTS['unk']=dict(tc={}, tj=tj(lambda t:t["model"].update(unk_token="<|endoftext|>")))
VARIANTS['dropout0']=dict(tc={}, tj=tj(lambda t:t["model"].update(dropout=0.0)))
VARIANTS['vocabtok']=dict(tc={"pad_token":"Ġ"}, )
def vadd(t): t["model"]["vocab"]["<x>"]=299
VARIANTS['in-vocab-not-added']=dict(tc={}, tj=tj(vadd))
VARIANTS['in-vocab-named']=dict(tc={"pad_token":"<x>","extra_special_tokens":["<y>"]}, tj=tj(vadd))
VARIANTS['unk-str-noise']=dict(tc={"extra_special_tokens":[],"additional_special_tokens":["<x>"]})
VARIANTS['both']=dict(tc={"extra_special_tokens":["<y>"],"additional_special_tokens":["<x>"]})

# Which place counts where several name tokens, and with which flags.
def OBJ(content,**k): return {"content":content,"lstrip":False,"rstrip":False,"single_word":False,"normalized":False,**k}
VARIANTS['specific']=dict(tc={"model_specific_special_tokens":{"image_token":"<x>","b":AT("<y>",rstrip=True)}})
VARIANTS['specific-lost']=dict(tc={"model_specific_special_tokens":{"image_token":"<x>"},"foo_token":"<y>"})
VARIANTS['specific-stays']=dict(tc={"model_specific_special_tokens":{"image_token":"<x>"},"foo_token":AT("<y>",lstrip=True)})
VARIANTS['specific-standard']=dict(tc={"bos_token":"<x>","extra_special_tokens":{"bos_token":"<y>"}})
VARIANTS['specific-list']=dict(tc={"model_specific_special_tokens":["<x>"]})
VARIANTS['specific-stm']=dict(tc={"model_specific_special_tokens":{"a":"<x>"}}, stm={"extra_special_tokens":{"b":"<y>"}})
VARIANTS['untyped-other']=dict(tc={"image_token":OBJ("<x>"),"foo_token":AT("<y>",lstrip=True)})
VARIANTS['untyped-bos']=dict(tc={"bos_token":OBJ("<x>")})
VARIANTS['untyped-bos-stm']=dict(tc={"bos_token":OBJ("<x>")}, stm={"bos_token":OBJ("<x>",rstrip=True)})
VARIANTS['untyped-list']=dict(tc={"additional_special_tokens":[OBJ("<x>")]})
VARIANTS['untyped-stm-list']=dict(tc={}, stm={"additional_special_tokens":[OBJ("<x>")]})
VARIANTS['stm-extra-objs']=dict(tc={"extra_special_tokens":["<x>"]}, stm={"extra_special_tokens":[OBJ("<y>",rstrip=True),"<x>"]})
VARIANTS['stm-extra-special']=dict(tc={}, stm={"extra_special_tokens":[at("<y>",special=False)]})
for name, lists in {"addl-empty":{"additional_special_tokens":[]},"addl-null":{"additional_special_tokens":None},
                    "addl":{"additional_special_tokens":["<y>"]},"extra-null":{"extra_special_tokens":None},
                    "extra-empty":{"extra_special_tokens":[]},"extra-none":{"extra_special_tokens":{}},"extra":{"extra_special_tokens":["<y>"]},
                    "extra-dict":{"extra_special_tokens":{"a":"<y>"}}}.items():
    VARIANTS['stm-addl-'+name]=dict(tc=lists, stm={"additional_special_tokens":["<x>"]})
VARIANTS['dict-and-addl']=dict(tc={"extra_special_tokens":{"a":"<x>"},"additional_special_tokens":["<y>"]})
VARIANTS['addl-string']=dict(tc={"additional_special_tokens":"<x>"})
VARIANTS['addl-obj']=dict(tc={"additional_special_tokens":AT("<x>")})
for name, pair in {"plain-later":[AT("<x>",lstrip=True),AT("<x>")],"plain-first":[AT("<x>"),AT("<x>",rstrip=True)],
                   "string-later":[AT("<x>",lstrip=True),"<x>"],"string-first":["<x>",AT("<x>",lstrip=True)],
                   "again":[AT("<x>",lstrip=True),AT("<x>",rstrip=True),AT("<x>",lstrip=True)]}.items():
    VARIANTS['twice-'+name]=dict(tc=dict(zip(["sep_token","cls_token","mask_token"],pair)))
    VARIANTS['twice-list-'+name]=dict(tc={"extra_special_tokens":pair})
VARIANTS['twice-both']=dict(tc={"pad_token":AT("<x>",rstrip=True),"extra_special_tokens":[AT("<x>",lstrip=True,special=False,normalized=True),"<y>"]})
VARIANTS['add-special-off']=dict(tc={"add_special_tokens":False})
VARIANTS['dec-list']=dict(tc={"added_tokens_decoder":[]})
VARIANTS['dec-extra-plain']=dict(tc={"extra_special_tokens":["<|im_end|>"],"added_tokens_decoder":{"297":{"content":"<|im_end|>","rstrip":True,"special":False}}})
VARIANTS['aj-typed']=dict(tc={"pad_token":AT("<x>",rstrip=True)}, aj={"<x>":299})
VARIANTS['no-type']=dict(tc={}, tj=tj(lambda t:t["model"].pop("type")))
VARIANTS['dropout']=dict(tc={}, tj=tj(lambda t:t["model"].update(dropout=0.1)))


# BPE over characters with tokens for bytes. For the class LlamaTokenizer transformers has its own idea of the rest.
def spm(f=lambda t: None, **fields):
    merges = [("\u2581","H"),("e","l"),("l","o"),("\u2581","w"),("\u2581","\u2581"),("\u2581\u2581","\u2581\u2581"),("o","r"),("\u2581","a"),("el","lo"),("\u2581w","or"),("1","2"),("\u2581","z")]
    texts = ["<unk>","<s>","</s>",*(f"<0x{b:02X}>" for b in range(256)),*"\u2581abdefhilmnoprstwzHx<>|_0123456789",*("".join(m) for m in merges)]
    vocab = {c: k for k, c in enumerate(texts)}
    one = [{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]
    post = {"type":"TemplateProcessing","single":one,"pair":one+[{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}}
    replace = {"type":"Replace","pattern":{"String":" "},"content":"\u2581"}
    t = {"version":"1.0","truncation":None,"padding":None,"added_tokens":[{"id":k,**at(c)} for k, c in enumerate(texts[:3])],
         "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},replace]},"pre_tokenizer":None,"post_processor":post,
         "decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]},
         "model":{"type":"BPE","dropout":None,"unk_token":"<unk>","continuing_subword_prefix":None,"end_of_word_suffix":None,"fuse_unk":True,"byte_fallback":True,
                  "ignore_merges":False,"vocab":vocab,"merges":[list(m) for m in merges]},**fields}
    f(t)
    return t
def twice(**k):
    def f(t): t["added_tokens"].append({**t["added_tokens"][2], **k})
    return f
for name, k in {"same":{},"rstrip":{"rstrip":True},"normalized":{"normalized":True},"plain":{"special":False,"lstrip":True},"id":{"id":299}}.items():
    VARIANTS['tj-twice-'+name]=dict(tc={}, tj=tj(twice(**k)))
LLAMA = {"tokenizer_class":"LlamaTokenizer"}
METASPACE = {"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":True}
def more(t): t["added_tokens"]+=[{"id":len(t["model"]["vocab"]),**at("<x>")},{"id":len(t["model"]["vocab"])+1,**at("<|im_end|>",special=False,normalized=True)}]
VARIANTS['spm-none']=dict(tc=None, tj=spm())
VARIANTS['spm-empty']=dict(tc={}, tj=spm(more))
VARIANTS['spm-generic']=dict(tc={"tokenizer_class":"PreTrainedTokenizerFast","legacy":False}, tj=spm())
VARIANTS['spm-llama']=dict(tc=LLAMA, tj=spm())
VARIANTS['spm-llama-fast']=dict(tc={"tokenizer_class":"LlamaTokenizerFast","legacy":False,"add_bos_token":True,"add_eos_token":False,"unk_token":"<unk>","bos_token":"<s>","eos_token":"</s>",
                                    "added_tokens_decoder":{"0":at("<unk>"),"1":at("<s>"),"2":at("</s>")}}, tj=spm())
VARIANTS['spm-llama-legacy']=dict(tc={**LLAMA,"legacy":True}, tj=spm())
VARIANTS['spm-llama-legacy-null']=dict(tc={**LLAMA,"legacy":None}, tj=spm())
VARIANTS['spm-llama-legacy-more']=dict(tc={**LLAMA,"legacy":True,"pad_token":"<y>"}, tj=spm(more))
VARIANTS['spm-llama-prefix-off']=dict(tc={**LLAMA,"add_prefix_space":False}, tj=spm())
VARIANTS['spm-llama-prefix-on']=dict(tc={**LLAMA,"add_prefix_space":True}, tj=spm())
VARIANTS['spm-llama-prefix-null']=dict(tc={**LLAMA,"add_prefix_space":None}, tj=spm())
VARIANTS['spm-llama-more']=dict(tc=LLAMA, tj=spm(more))
VARIANTS['spm-llama-lost']=dict(tc={**LLAMA,"added_tokens_decoder":{"0":at("<unk>"),"1":at("<s>"),"2":at("</s>")}}, tj=spm(more))
VARIANTS['spm-llama-metaspace']=dict(tc=LLAMA, tj=spm(normalizer=None,pre_tokenizer=METASPACE))
VARIANTS['spm-llama-model']=dict(tc=LLAMA, tj=spm(lambda t:t["model"].update(ignore_merges=True,byte_fallback=False,fuse_unk=False)))
VARIANTS['spm-llama-decoder']=dict(tc=LLAMA, tj=spm(decoder={"type":"ByteLevel","add_prefix_space":True,"trim_offsets":True,"use_regex":True}))
VARIANTS['spm-llama-no-post']=dict(tc={**LLAMA,"add_bos_token":True}, tj=spm(post_processor=None))
VARIANTS['spm-llama-bos']=dict(tc={**LLAMA,"bos_token":"<y>","eos_token":"<z>"}, tj=spm())
# Named tokens keep their flags: LlamaTokenizer adds them once, Qwen2Tokenizer once more without.
NAMED = {"unk_token":"<unk>","bos_token":"<s>","eos_token":"</s>"}
VARIANTS['spm-llama-flags-decoder']=dict(tc={**LLAMA,**NAMED,"pad_token":"<y>","added_tokens_decoder":{"0":at("<unk>",rstrip=True),"1":at("<s>",lstrip=True),"2":at("</s>")}}, tj=spm())
VARIANTS['spm-llama-flags-map']=dict(tc=LLAMA, stm={**NAMED,"unk_token":at("<unk>",rstrip=True),"pad_token":at("<y>",lstrip=True,rstrip=True)}, tj=spm())
VARIANTS['spm-llama-flags-objects']=dict(tc={**LLAMA,**NAMED,"extra_special_tokens":[AT("<x>",lstrip=True),AT("<y>",single_word=True)],"pad_token":AT("<z>",rstrip=True)}, tj=spm())
VARIANTS['spm-llama-flags-token']=dict(tc={**LLAMA,**NAMED,"z_token":AT("<z>",rstrip=True),"additional_special_tokens":[AT("<|pad|>",single_word=True)]}, tj=spm())
def unnamed(t):
    t["added_tokens"]=[]; v=t["model"]["vocab"]; t["model"]["unk_token"]=None
    for c in ("<unk>","</s>"): v[c.replace("<","_")]=v.pop(c)
VARIANTS['spm-llama-unnamed']=dict(tc=LLAMA, tj=spm(unnamed))
VARIANTS['spm-metaspace']=dict(tc={}, tj=spm(normalizer=None,pre_tokenizer=METASPACE))
VARIANTS['spm-class-of-config']=dict(tc=None, tj=spm(), config={"tokenizer_class":"LlamaTokenizer"})


def write(directory, variant, model_type):
    directory.mkdir(parents=True)
    files = {"tokenizer.json": variant.get("tj", BASE), "tokenizer_config.json": variant["tc"],
             "special_tokens_map.json": variant.get("stm"), "added_tokens.json": variant.get("aj"),
             "config.json": {"model_type": model_type, **variant.get("config", {})}}
    for name, content in files.items():
        if content is not None:
            (directory / name).write_text(json.dumps(content))

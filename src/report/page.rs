//! The page around a report's parts.

/// Text as HTML shows it, also within an attribute. What no document may hold is left out.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' => safe.push(character),
            character if character.is_control() => {}
            character => safe.push(character),
        }
    }
    safe
}

/// A figure of the run; nothing where it is not known.
#[must_use]
pub fn fact(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    format!("<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value))
}

/// The whole document. Nothing is loaded from anywhere, which the policy in it sees to; there is no script.
#[must_use]
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"generator\" content=\"evenkeel {}\">\n<link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        escaped(title)
    )
}

/// Colours are told apart by those who see few of them, and lines by their dashes as well.
const STYLE: &str = "
:root{--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--paper:#fff;--card:#f6f8fa;--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#aa4499;
--good:#116329;--bad:#a40e26;--mixed:#7d4e00;--now:#0550ae}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--line:#30363d;--paper:#0d1117;--card:#161b22;--s0:#58a6ff;--s1:#f0883e;
--s2:#3fb98f;--s3:#d98cc8;--good:#56d364;--bad:#ff8e8e;--mixed:#e3b341;--now:#79c0ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:.25rem 0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.25rem 0 .75rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}
p{margin:.5rem 0;overflow-wrap:anywhere}
.of{color:var(--soft)}
.state{display:inline-block;margin:0;padding:.1rem .6rem;border:1px solid;border-radius:1rem;font-size:.875rem;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.mixed{color:var(--mixed)}.now{color:var(--now)}
.failure{border-left:4px solid var(--bad);padding:.1rem 1rem .5rem;margin-top:1rem;background:var(--card)}
.failure h2{border:0;margin:.5rem 0 0}
.advice{color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.75rem;margin:1.25rem 0 0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.5rem .75rem}
dt{color:var(--soft);font-size:.8125rem}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.25rem}
figure{margin:0;min-width:0}
.charts figure{border:1px solid var(--line);border-radius:.5rem;padding:.75rem}
figcaption{font-size:.875rem;color:var(--soft);margin-bottom:.25rem}
figcaption b{display:block;color:var(--ink);font-size:.9375rem}
.key{white-space:nowrap;margin-right:.75rem}
.key svg{width:1.6rem;height:.6rem;margin-right:.3rem;vertical-align:middle}
svg{display:block;width:100%;height:auto;overflow:visible}
.key svg{display:inline-block}
svg text{font-size:13.5px;fill:var(--soft)}
svg .strong{fill:var(--ink)}
.grid{stroke:var(--line);stroke-width:1}
.s{fill:none;stroke-width:2;stroke-linejoin:round}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1);stroke-dasharray:7 3}.s2{stroke:var(--s2);stroke-dasharray:2 3}.s3{stroke:var(--s3);stroke-dasharray:9 3 2 3}
.faint{stroke:var(--s1);stroke-width:1;stroke-dasharray:none;opacity:.35}
.dot{stroke:none}.dot.s0{fill:var(--s0)}.dot.s1{fill:var(--s1)}.dot.s2{fill:var(--s2)}.dot.s3{fill:var(--s3)}
.seen{fill:var(--s0)}.room{fill:var(--line)}.over{fill:var(--bad)}.predicted{stroke:var(--ink);stroke-width:2;stroke-dasharray:4 2}
.ran{fill:var(--s0)}.fell{fill:var(--bad)}.stop{fill:var(--mixed)}.mark{stroke:var(--ink);stroke-width:2}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9375rem;width:100%}
th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:500}
tbody th{font-weight:500;white-space:nowrap}
code{font-family:ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;font-size:.875em;overflow-wrap:anywhere}
ol{padding-left:1.4rem;margin:.75rem 0}li{margin:.35rem 0;overflow-wrap:anywhere}
.picture{margin-bottom:1rem}.picture img{max-width:100%;height:auto;border:1px solid var(--line);background:#fff}
@media print{body{font-size:12px}section{break-inside:avoid}}
";

//! A message as the request that a service takes, with its signature, and what the service's answer means.
//!
//! Foreign words (a trainer's error) are in it. So it is text, not markup, wherever a service has both: no word of theirs can
//! call a whole group.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::message::Message;
use crate::http::Request;
use crate::job::Service;

/// Bytes of a text at most: WeCom takes 2,048.
const LONGEST: usize = 2000;

/// The request that tells `message` to `url` at `now_ms`, milliseconds since the Unix epoch.
#[must_use]
pub fn request(service: Service, url: &str, secret: Option<&str>, message: &Message, now_ms: u64) -> Request {
    let plain = |body: Value| Request { url: url.to_owned(), headers: Vec::new(), body: Some(body.to_string()) };
    match service {
        Service::Generic => generic(url, secret, message, now_ms),
        Service::Slack => plain(slack(message)),
        Service::Feishu => {
            // Feishu's text has tags of its own, such as `<at user_id="all">`.
            let text = text(message).replace('<', "\u{2039}");
            let mut body = json!({ "msg_type": "text", "content": { "text": text } });
            if let Some(secret) = secret {
                let timestamp = (now_ms / 1000).to_string();
                body["sign"] = json!(feishu_sign(secret, &timestamp));
                body["timestamp"] = json!(timestamp);
            }
            plain(body)
        }
        Service::DingTalk => {
            let body = json!({ "msgtype": "text", "text": { "content": text(message) } });
            let signed = secret.map(|secret| dingtalk_url(url, secret, now_ms));
            Request { url: signed.unwrap_or_else(|| url.to_owned()), ..plain(body) }
        }
        Service::WeCom => plain(json!({ "msgtype": "text", "text": { "content": text(message) } })),
    }
}

/// What a service's answer means: nothing, or why the message did not arrive and whether another try may help.
///
/// # Errors
///
/// The service did not take the message.
pub fn understood(service: Service, status: u16, body: &str) -> Result<(), Refused> {
    if !(200..300).contains(&status) {
        let again = status >= 500 || matches!(status, 408 | 425 | 429);
        return Err(Refused { why: format!("status {status}"), again });
    }
    let codes: &[&str] = match service {
        // Feishu's older form has the second.
        Service::Feishu => &["code", "StatusCode"],
        Service::DingTalk | Service::WeCom => &["errcode"],
        Service::Generic | Service::Slack => return Ok(()),
    };
    // They say in the answer what is wrong, and the status says that all is well.
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    match codes.iter().find_map(|code| answer[*code].as_i64()) {
        Some(0) => Ok(()),
        Some(code) => {
            let words = ["msg", "errmsg"].iter().find_map(|key| answer[*key].as_str()).unwrap_or_default();
            let words: String = words.chars().filter(|letter| !letter.is_control()).take(120).collect();
            Err(Refused { why: format!("its code {code}: {words}"), again: false })
        }
        None => Err(Refused { why: "an answer that is not the service's".into(), again: false }),
    }
}

/// Why a service did not take a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In a few words, without a secret.
    pub why: String,
    /// Whether another try may help.
    pub again: bool,
}

/// The message as text. Robots may want a word in it before they show it: `evenkeel` is always there.
fn text(message: &Message) -> String {
    let lines = message.lines.iter().map(|(name, text)| format!("\n{name}: {text}"));
    cut(&format!("evenkeel: {}{}", message.title, lines.collect::<String>()), LONGEST)
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

fn slack(message: &Message) -> Value {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let block = |text: String| json!({ "type": "section", "text": { "type": "plain_text", "text": text } });
    // Older clients and notifications show `text`, which is markup; the blocks are plain.
    json!({ "text": escape(&format!("evenkeel: {}", message.title)), "blocks": [block(text(message))] })
}

/// Everything, as JSON. The signature is over the time, a point and the body, so that an old message cannot be sent again as a new one.
fn generic(url: &str, secret: Option<&str>, message: &Message, now_ms: u64) -> Request {
    let body = message.facts.to_string();
    let timestamp = (now_ms / 1000).to_string();
    let mut headers = vec![("X-Evenkeel-Id", message.id.clone()), ("X-Evenkeel-Timestamp", timestamp.clone())];
    if let Some(secret) = secret {
        let sign = hmac(secret, &format!("{timestamp}.{body}"));
        let hex: String = sign.iter().map(|byte| format!("{byte:02x}")).collect();
        headers.push(("X-Evenkeel-Signature", format!("sha256={hex}")));
    }
    Request { url: url.to_owned(), headers, body: Some(body) }
}

/// Feishu's signature: time and secret are the key, and nothing is the text.
fn feishu_sign(secret: &str, timestamp: &str) -> String {
    BASE64.encode(hmac(&format!("{timestamp}\n{secret}"), ""))
}

/// DingTalk's signature: the secret is the key, time and secret are the text. It goes into the address.
fn dingtalk_url(url: &str, secret: &str, now_ms: u64) -> String {
    let sign = BASE64.encode(hmac(secret, &format!("{now_ms}\n{secret}")));
    match url::Url::parse(url) {
        Ok(mut url) => {
            url.query_pairs_mut().append_pair("timestamp", &now_ms.to_string()).append_pair("sign", &sign);
            url.into()
        }
        // It was one when it was resolved.
        Err(_) => url.to_owned(),
    }
}

fn hmac(key: &str, text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key may have any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Moment;

    fn message() -> Message {
        Message {
            moment: Moment::Failure,
            id: "r-failure-0".into(),
            title: "a & b: failed".into(),
            lines: vec![("what", "<at user_id=\"all\">x</at> <!channel>".into())],
            facts: json!({ "a": 1 }),
        }
    }

    fn body(request: &Request) -> Value {
        serde_json::from_str(request.body.as_deref().expect("it is posted")).expect("JSON")
    }

    // The signatures were computed with Python's hmac, as the services' own examples do.

    #[test]
    fn feishu_gets_time_and_signature_in_the_body() {
        let url = "https://open.feishu.cn/open-apis/bot/v2/hook/x";
        let told = request(Service::Feishu, url, Some("hush"), &message(), 1_599_360_473_999);
        let body = body(&told);
        assert_eq!(body["timestamp"], "1599360473");
        assert_eq!(body["sign"], "Hc5dM02+ptmh0EjeNEkR6VFXhMrl0OC0GhbSOWeacu0=");
        assert_eq!(body["msg_type"], "text");
        let text = body["content"]["text"].as_str().expect("text");
        assert!(text.starts_with("evenkeel: a & b: failed\nwhat: ") && !text.contains("<at"), "{text}");
        assert_eq!(told.url, url);
    }

    #[test]
    fn dingtalk_gets_them_in_the_address() {
        let url = "https://oapi.dingtalk.com/robot/send?access_token=t";
        let told = request(Service::DingTalk, url, Some("SEChush"), &message(), 1_700_000_000_126);
        let sign = "mPP2RzPAk9J%2FYGn1lMII1k6RLXdqomqIQqL%2BtMEx7Rw%3D";
        assert_eq!(told.url, format!("{url}&timestamp=1700000000126&sign={sign}"));
        assert_eq!(body(&told)["msgtype"], "text");
        assert_eq!(request(Service::DingTalk, url, None, &message(), 1).url, url);
    }

    #[test]
    fn a_generic_message_is_signed_with_its_time() {
        let told = request(Service::Generic, "http://a.b", Some("hush"), &message(), 1_700_000_000_126);
        let expected = [
            ("X-Evenkeel-Id", "r-failure-0"),
            ("X-Evenkeel-Timestamp", "1700000000"),
            ("X-Evenkeel-Signature", "sha256=7cfd1df542c33ab7251748ffdc6e7fed278c63b83d4ece95a4534b0ad465571b"),
        ];
        let headers: Vec<(&str, &str)> = told.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(headers, expected);
        assert_eq!(told.body.as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(request(Service::Generic, "http://a.b", None, &message(), 1).headers.len(), 2);
    }

    #[test]
    fn nobodys_words_call_a_channel_in_slack() {
        let told = body(&request(Service::Slack, "http://a.b", None, &message(), 1));
        assert_eq!(told["text"], "evenkeel: a &amp; b: failed");
        assert_eq!(told["blocks"][0]["text"]["type"], "plain_text");
        assert!(told["blocks"][0]["text"]["text"].as_str().is_some_and(|text| text.contains("<!channel>")));
    }

    #[test]
    fn a_long_message_is_cut_where_a_character_ends() {
        let long = Message { title: "é".repeat(5000), ..message() };
        let told = body(&request(Service::WeCom, "http://a.b", None, &long, 1));
        let text = told["text"]["content"].as_str().expect("text");
        assert!(text.len() <= LONGEST && text.ends_with('…'), "{}", text.len());
    }

    #[test]
    fn an_answer_may_say_that_all_is_well_and_mean_otherwise() {
        assert_eq!(understood(Service::Slack, 200, "ok"), Ok(()));
        assert_eq!(understood(Service::Feishu, 200, r#"{"StatusCode":0,"StatusMessage":"success"}"#), Ok(()));
        assert_eq!(understood(Service::WeCom, 200, r#"{"errcode":0,"errmsg":"ok"}"#), Ok(()));
        let refused = understood(Service::DingTalk, 200, r#"{"errcode":310000,"errmsg":"sign not match"}"#);
        assert_eq!(refused, Err(Refused { why: "its code 310000: sign not match".into(), again: false }));
        assert_eq!(understood(Service::Feishu, 200, r#"{"code":19021,"msg":"x"}"#).map_err(|it| it.again), Err(false));
        assert!(understood(Service::Feishu, 200, "<html>").is_err());
        assert_eq!(understood(Service::Generic, 503, "").map_err(|it| it.again), Err(true));
        assert_eq!(understood(Service::Generic, 404, "").map_err(|it| it.again), Err(false));
    }
}

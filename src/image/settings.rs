//! What this machine knows of its network and that a build has to know too: proxies, mirrors, certificate authorities.
//!
//! Credentials of cargo and of registries are never taken along. A mirror or a proxy may have its credentials in its URL:
//! a build needs them, and nothing else sees them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A machine's settings for builds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Build arguments by name: proxies and package indexes.
    pub arguments: BTreeMap<String, String>,
    /// Certificate authorities, PEM; empty: none beyond those of the images.
    pub authorities: Vec<u8>,
    /// Cargo's configuration without its secrets; empty: none.
    pub cargo: String,
}

/// Names of the two files at the root of a context.
pub const AUTHORITIES_FILE: &str = "ca-bundle.pem";
/// See [`AUTHORITIES_FILE`].
pub const CARGO_FILE: &str = "cargo-config.toml";

const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "no_proxy", "all_proxy"];
const PIP: [(&str, &str); 3] =
    [("PIP_INDEX_URL", "index-url"), ("PIP_EXTRA_INDEX_URL", "extra-index-url"), ("PIP_TRUSTED_HOST", "trusted-host")];

impl Settings {
    /// Reads them from the environment (`variable` looks one up) and from the usual files. A file that cannot be read
    /// is as good as none: these are settings of other programs.
    #[must_use]
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let mut arguments = proxies(&variable);
        let pip: Vec<String> = pip_files(&variable).iter().map(|path| text(path)).collect();
        arguments.extend(pip_arguments(&variable, &pip));
        arguments.extend(variable("DEBIAN_MIRROR").map(|mirror| ("DEBIAN_MIRROR".to_owned(), mirror)));

        let home = variable("HOME").map(PathBuf::from);
        let cargo = variable("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cargo")));
        let cargo = cargo.map(|folder| text(&folder.join("config.toml"))).unwrap_or_default();
        Self { arguments, authorities: authorities(&variable), cargo: cargo_settings(&cargo) }
    }

    /// The files that go to the root of a context.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![(AUTHORITIES_FILE, self.authorities.clone()), (CARGO_FILE, self.cargo.clone().into_bytes())]
    }

    /// Network that the steps of a build need: the machine's own where a proxy listens on its loopback, which no other
    /// network reaches. Empty: the engine's default.
    #[must_use]
    pub fn network(&self) -> String {
        let local = |url: &String| {
            let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            ["127.", "localhost", "[::1]"].iter().any(|start| host.starts_with(start))
        };
        let proxies = self.arguments.iter().filter(|(name, _)| {
            let name = name.to_ascii_lowercase();
            name.ends_with("_proxy") && name != "no_proxy"
        });
        if proxies.map(|(_, url)| url).any(local) { "host".to_owned() } else { String::new() }
    }
}

fn proxies(variable: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in PROXIES {
        let upper = name.to_ascii_uppercase();
        // Programs differ in which spelling they read; whichever is set serves both.
        if let Some(value) = variable(name).or_else(|| variable(&upper)) {
            found.insert(upper, value.clone());
            found.insert(name.to_owned(), value);
        }
    }
    found
}

fn pip_files(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    // In the order in which pip reads them: the later one wins.
    let mut files = vec![PathBuf::from("/etc/pip.conf"), PathBuf::from("/etc/xdg/pip/pip.conf")];
    if let Some(home) = variable("HOME").map(PathBuf::from) {
        files.push(home.join(".pip/pip.conf"));
        let config = variable("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        files.push(config.join("pip/pip.conf"));
    }
    files.extend(variable("PIP_CONFIG_FILE").map(PathBuf::from));
    files
}

fn pip_arguments(variable: &dyn Fn(&str) -> Option<String>, files: &[String]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, key) in PIP {
        let configured = files.iter().rev().find_map(|text| pip_setting(text, key));
        if let Some(value) = variable(name).or(configured) {
            found.insert(name.to_owned(), value);
        }
    }
    found
}

/// A setting of pip's `global` or `install` section; several lines of it become words.
fn pip_setting(text: &str, key: &str) -> Option<String> {
    let (mut section, mut inside, mut words) = (String::new(), false, Vec::new());
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, inside) = (name.trim().to_owned(), false);
        } else if line.starts_with([' ', '\t']) && inside {
            words.push(line.trim());
        } else if let Some((name, value)) = line.split_once(['=', ':']) {
            inside = name.trim().replace('_', "-") == key && ["global", "install"].contains(&section.as_str());
            if inside {
                words = vec![value.trim()];
            }
        }
    }
    let value = words.join(" ").trim().to_owned();
    (!value.is_empty()).then_some(value)
}

fn authorities(variable: &dyn Fn(&str) -> Option<String>) -> Vec<u8> {
    // Only a bundle that somebody named, or one to which this machine's administrator has added: Debian's own
    // authorities are in the images already, and a bundle in the context is one more reason to build again.
    let named = ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().find_map(variable);
    let added = [
        ("/usr/local/share/ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
        ("/etc/pki/ca-trust/source/anchors", "/etc/pki/tls/certs/ca-bundle.crt"),
    ];
    let has_files = |folder: &str| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let system = || added.iter().find(|(folder, _)| has_files(folder)).map(|(_, bundle)| (*bundle).to_owned());
    let bundle = named.or_else(system).map(std::fs::read).and_then(Result::ok).unwrap_or_default();
    // A file that holds no certificate would make every download fail.
    let begin = b"-----BEGIN CERTIFICATE-----";
    if bundle.windows(begin.len()).any(|window| window == begin) { bundle } else { Vec::new() }
}

/// Cargo's registries, their replacements and its network settings; no secrets, and nothing that names a path of this
/// machine.
fn cargo_settings(text: &str) -> String {
    const TABLES: [&str; 4] = ["source", "registries", "http", "net"];
    const DROPPED: [&str; 8] = [
        "token",
        "secret-key",
        "secret-key-subject",
        "credential-provider",
        "cainfo",
        "proxy-cainfo",
        "ssl-keys",
        "git-fetch-with-cli",
    ];
    const LOCAL: [&str; 2] = ["directory", "local-registry"];
    let first = |key: &str| key.split('.').next().unwrap_or("").trim().trim_matches('"').to_owned();
    let key_of = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned()).unwrap_or_default();
    let last = |key: &str| key.rsplit('.').next().unwrap_or("").trim().trim_matches('"').to_owned();

    let (mut table, mut kept, mut local) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        let trimmed = line.trim();
        let header = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).filter(|_| !trimmed.contains('='));
        let owner = match header {
            Some((name, _)) => {
                table = first(name);
                table.clone()
            }
            None if table.is_empty() => first(&key_of(trimmed)),
            None => table.clone(),
        };
        if trimmed.is_empty() || trimmed.starts_with('#') || !TABLES.contains(&owner.as_str()) {
            continue;
        }
        let key = last(&key_of(trimmed));
        local |= owner == "source" && LOCAL.contains(&key.as_str());
        let secret = owner != "http" && trimmed.contains("token") || DROPPED.contains(&key.as_str());
        if !secret {
            kept.push((owner, line));
        }
    }
    // A source in a folder of this machine is of no use in a container, and half a replacement is an error.
    kept.retain(|(owner, _)| !(local && owner == "source"));
    kept.iter().map(|(_, line)| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn a_proxy_is_passed_in_both_spellings() {
        let found = proxies(&environment(&[("HTTPS_PROXY", "http://proxy:3128"), ("no_proxy", "localhost")]));
        assert_eq!(found["https_proxy"], "http://proxy:3128");
        assert_eq!(found["NO_PROXY"], "localhost");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn a_proxy_on_the_loopback_needs_the_machines_network() {
        let with = |url: &str| Settings {
            arguments: BTreeMap::from([("HTTP_PROXY".into(), url.into()), ("NO_PROXY".into(), "localhost".into())]),
            ..Settings::default()
        };
        assert_eq!(with("http://me:word@127.0.0.1:7890").network(), "host");
        assert_eq!(with("localhost:7890").network(), "host");
        assert_eq!(with("http://proxy.lab:3128").network(), "");
    }

    #[test]
    fn pip_takes_its_environment_before_its_files_and_the_last_file_before_the_first() {
        let files = [
            "[global]\nindex-url = https://one/simple\nextra-index-url =\n    https://a\n    https://b\n".to_owned(),
            "[global]\n# index-url = https://no\nindex_url: https://two/simple\n[freeze]\ntrusted-host = x\n"
                .to_owned(),
        ];
        let found = pip_arguments(&environment(&[]), &files);
        assert_eq!(found["PIP_INDEX_URL"], "https://two/simple");
        assert_eq!(found["PIP_EXTRA_INDEX_URL"], "https://a https://b");
        assert!(!found.contains_key("PIP_TRUSTED_HOST"));
        let found = pip_arguments(&environment(&[("PIP_INDEX_URL", "https://mine")]), &files);
        assert_eq!(found["PIP_INDEX_URL"], "https://mine");
    }

    #[test]
    fn cargos_mirrors_come_along_and_its_secrets_do_not() {
        let text = "[build]\njobs = 2\n[source.crates-io]\nreplace-with = 'mirror'\n[source.mirror]\n\
                    registry = \"sparse+https://mirror/index/\"\n[registries.ours]\nindex = \"https://ours\"\n\
                    token = \"secret\"\n[http]\ncainfo = \"/etc/x.pem\"\ncheck-revoke = false\n";
        let kept = cargo_settings(text);
        for wanted in ["[source.mirror]", "replace-with", "[registries.ours]", "check-revoke"] {
            assert!(kept.contains(wanted), "{wanted}");
        }
        for unwanted in ["jobs", "secret", "cainfo"] {
            assert!(!kept.contains(unwanted), "{unwanted}");
        }
    }

    #[test]
    fn a_vendored_source_stays_at_home() {
        let text = "[source.crates-io]\nreplace-with = \"v\"\n[source.v]\ndirectory = \"/vendor\"\n[net]\nretry = 3\n";
        assert_eq!(cargo_settings(text), "[net]\nretry = 3\n");
    }

    #[test]
    fn a_named_bundle_without_certificates_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bundle.pem");
        std::fs::write(&path, "nothing").expect("a file");
        let name = path.display().to_string();
        assert_eq!(authorities(&environment(&[("SSL_CERT_FILE", &name)])), b"");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").expect("a file");
        assert!(!authorities(&environment(&[("SSL_CERT_FILE", &name)])).is_empty());
    }
}

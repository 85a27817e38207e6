//! What NCCL says about itself with `NCCL_DEBUG=INFO`. Pure.

use std::collections::BTreeSet;

/// Transports of all channels, such as `P2P/CUMEM`, `SHM`, `NET/Socket`, joined by a comma where there are several; `None`
/// where no line names one.
///
/// The lines look like `host:12:34 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read`; between hosts there is
/// `[send]` or `[receive]` before `via`, and behind `NET/IB` or `NET/Socket` the number of the card.
pub fn transports(text: &str) -> Option<String> {
    let found: BTreeSet<_> = text.lines().filter_map(transport).collect();
    (!found.is_empty()).then(|| found.into_iter().collect::<Vec<_>>().join(", "))
}

fn transport(line: &str) -> Option<String> {
    let (_, message) = line.split_once("NCCL INFO ")?;
    let (connection, way) = message.strip_prefix("Channel ")?.split_once(" via ")?;
    if !connection.contains("->") {
        return None;
    }
    let mut parts = way.split_whitespace().next()?.split('/');
    let kind = parts.next()?;
    let detail: Vec<_> = match kind {
        // Always through host memory; what follows says who copies.
        "SHM" => Vec::new(),
        // The number of the card, and of the channel on it, say nothing about the way.
        "NET" => parts.filter(|part| !part.starts_with(|c: char| c.is_ascii_digit()) && *part != "Shared").collect(),
        _ => parts.take(1).collect(),
    };
    Some([kind].into_iter().chain(detail).collect::<Vec<_>>().join("/"))
}

/// The last warning, which is NCCL's own reason for a failure.
pub fn warning(text: &str) -> Option<&str> {
    text.lines().rev().find_map(|line| line.split_once("NCCL WARN ")).map(|(_, warning)| warning.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<String> {
        transports(&lines.join("\n"))
    }

    #[test]
    fn direct_access_is_told_with_its_kind() {
        let lines = [
            "box:71:93 [0] NCCL INFO NCCL version 2.28.9+cuda13.0",
            "box:71:93 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read",
            "box:71:93 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM/read",
            "box:71:93 [0] NCCL INFO Connected all rings, use ring PXN 0 GDR 1",
        ];
        assert_eq!(of(&lines).as_deref(), Some("P2P/CUMEM"));
        let lines = ["n:1:2 [1] NCCL INFO Channel 00 : 1[2000] -> 0[1000] via P2P/IPC"];
        assert_eq!(of(&lines).as_deref(), Some("P2P/IPC"));
        let lines = ["n:1:2 [1] NCCL INFO Channel 00/0 : 1[1] -> 0[0] via P2P/direct pointer"];
        assert_eq!(of(&lines).as_deref(), Some("P2P/direct"));
    }

    #[test]
    fn shared_memory_is_one_transport_however_it_is_copied() {
        let lines = [
            "box:71:93 [0] NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct",
            "box:71:93 [0] NCCL INFO Channel 01 : 0[0] -> 1[1] via SHM/CE/CE",
        ];
        assert_eq!(of(&lines).as_deref(), Some("SHM"));
    }

    #[test]
    fn the_network_is_told_without_the_number_of_its_card() {
        let lines = [
            "a:1:2 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/Socket/0",
            "a:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/1",
        ];
        assert_eq!(of(&lines).as_deref(), Some("NET/Socket"));
        let lines = ["a:1:2 [0] NCCL INFO Channel 02/0 : 0[0] -> 1[0] [send] via NET/IB/0(4)/GDRDMA/Shared"];
        assert_eq!(of(&lines).as_deref(), Some("NET/IB/GDRDMA"));
    }

    #[test]
    fn several_transports_are_told_all() {
        let lines = [
            "a:1:2 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/Socket/0",
            "a:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/IPC",
        ];
        assert_eq!(of(&lines).as_deref(), Some("NET/Socket, P2P/IPC"));
    }

    #[test]
    fn other_lines_name_no_transport() {
        let lines = [
            "training via SHM",
            "a:1:2 [0] NCCL INFO Using network Socket",
            "a:1:2 [0] NCCL INFO NET/Socket : Using [0]lo:127.0.0.1<0>",
            "a:1:2 [0] NCCL INFO Channel 00/02 : 0 1",
            "a:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via ",
        ];
        assert_eq!(of(&lines), None);
    }

    #[test]
    fn the_last_warning_is_the_reason() {
        let text = "a:1:2 [0] init.cc:9 NCCL WARN first\na:1:2 [0] NCCL INFO more\n\
                    a:1:2 [0] shm.cc:114 NCCL WARN Call to shm_open failed: No space left on device \n";
        assert_eq!(warning(text), Some("Call to shm_open failed: No space left on device"));
        assert_eq!(warning("a:1:2 [0] NCCL INFO fine"), None);
    }
}

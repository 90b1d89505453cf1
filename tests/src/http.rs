//! Just enough HTTP/1.1 to ask a question over any stream.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: String,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request and reads the answer to its end; the stream is not used again.
pub fn ask(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> Result<Response> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    read(BufReader::new(stream)).with_context(|| format!("{method} {path}"))
}

fn read(mut stream: impl BufRead) -> Result<Response> {
    let first = line(&mut stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("not a status line: {first:?}"))?;
    let mut headers = Vec::new();
    loop {
        let field = line(&mut stream)?;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').with_context(|| format!("not a header: {field:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: String::new() };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = chunks(&mut stream)?;
    } else if let Some(length) = response.header("content-length") {
        let mut body = vec![0; length.parse()?];
        stream.read_exact(&mut body)?;
        response.body = String::from_utf8(body)?;
    } else {
        stream.read_to_string(&mut response.body)?;
    }
    Ok(response)
}

fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("the connection ended early");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn chunks(stream: &mut impl BufRead) -> Result<String> {
    let mut body = Vec::new();
    loop {
        let size = line(stream)?;
        let size =
            usize::from_str_radix(size.trim(), 16).with_context(|| format!("not a chunk size: {size:?}"))?;
        let mut chunk = vec![0; size];
        stream.read_exact(&mut chunk)?;
        body.extend(chunk);
        line(stream)?;
        if size == 0 {
            return Ok(String::from_utf8(body)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_end_by_length_by_chunks_or_by_closing() {
        let body = |text: &str| read(text.as_bytes()).unwrap().body;
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhey"), "he");
        assert_eq!(
            body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n1\r\ny\r\n0\r\n\r\n"),
            "hey"
        );
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nhey"), "hey");
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh".as_bytes()).is_err());
        assert!(read("HTTP/1.1 200 OK\r\nContent".as_bytes()).is_err());
    }
}

//! Small images of random content, in every form a client can take one from: an OCI layout, the same as one archive, and an
//! archive as `docker save` writes it. No base image can be had in a test, and none is needed.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A blob's content and its digest.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Blob {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let digest = digest_of(&bytes);
        Self { bytes, digest }
    }

    pub(crate) fn random(len: usize) -> Self {
        let mut bytes = vec![0; len];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
        Self::new(bytes)
    }

    pub(crate) fn descriptor(&self, media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }

    fn hex(&self) -> &str {
        self.digest.strip_prefix("sha256:").expect("digests here are sha256")
    }
}

/// `sha256:` and the hexadecimal hash of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(digest(&SHA256, bytes).as_ref()))
}

/// One image with layers nobody has seen before.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Blob>,
    pub(crate) config: Blob,
    pub(crate) manifest: Blob,
}

impl Image {
    /// An image with one random layer for each of `layer_sizes`.
    pub(crate) fn random(layer_sizes: &[usize]) -> Self {
        let layer = |(number, size): (usize, &usize)| {
            let content = Blob::random(*size);
            Blob::new(tar(&[(format!("layer{number}.bin"), content.bytes)]))
        };
        let layers: Vec<_> = layer_sizes.iter().enumerate().map(layer).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["/layer0.bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::new(to_bytes(&config));
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.descriptor(LAYER_TYPE)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(CONFIG_TYPE),
            "layers": descriptors,
        });
        Self { layers, config, manifest: Blob::new(to_bytes(&manifest)) }
    }

    pub(crate) fn manifest_type(&self) -> &'static str {
        MANIFEST_TYPE
    }

    /// Every blob a push uploads: the layers and the configuration.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }

    /// Writes an OCI layout to `dir`, with the image under `tag`.
    pub(crate) fn write_oci_layout(&self, dir: &Path, tag: &str) {
        for (name, bytes) in self.oci_files(tag) {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory");
            std::fs::write(path, bytes).expect("a file of the layout");
        }
    }

    /// The OCI layout as one archive, which is what `ctr images import` reads.
    pub(crate) fn write_oci_archive(&self, path: &Path, reference: &str) -> PathBuf {
        std::fs::write(path, tar(&self.oci_files(reference))).expect("an archive");
        path.to_owned()
    }

    /// What `docker save` would write for this image.
    pub(crate) fn write_docker_archive(&self, path: &Path, reference: &str) -> PathBuf {
        let layer_path = |layer: &Blob| format!("{}/layer.tar", layer.hex());
        let config_path = format!("{}.json", self.config.hex());
        let layers: Vec<_> = self.layers.iter().map(layer_path).collect();
        let manifest = json!([{ "Config": config_path, "RepoTags": [reference], "Layers": layers }]);
        let mut files = vec![(config_path, self.config.bytes.clone())];
        files.extend(self.layers.iter().map(|layer| (layer_path(layer), layer.bytes.clone())));
        files.push(("manifest.json".to_owned(), to_bytes(&manifest)));
        std::fs::write(path, tar(&files)).expect("an archive");
        path.to_owned()
    }

    fn oci_files(&self, reference: &str) -> Vec<(String, Vec<u8>)> {
        let mut entry = self.manifest.descriptor(MANIFEST_TYPE);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": reference });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut files = vec![
            ("oci-layout".to_owned(), to_bytes(&json!({ "imageLayoutVersion": "1.0.0" }))),
            ("index.json".to_owned(), to_bytes(&index)),
        ];
        let blobs = self.blobs().chain([&self.manifest]);
        files.extend(blobs.map(|blob| (format!("blobs/sha256/{}", blob.hex()), blob.bytes.clone())));
        files
    }
}

fn to_bytes(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON values serialise")
}

const BLOCK: usize = 512;

/// A POSIX ustar archive of regular files (IEEE Std 1003.1, pax, "ustar Interchange Format").
fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in files {
        archive.extend_from_slice(&tar_header(name, bytes.len()));
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn tar_header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0u8; BLOCK];
    let mut put =
        |offset: usize, text: &str| header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

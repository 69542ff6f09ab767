//! Files that are made for a comparison: certificates with their keys, and files to download.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use rustls::pki_types::ServerName;
use tempfile::TempDir;

use super::requests::{Data, download_name, random_bytes};
use super::workload::{Key, Workload};
use crate::load::{TlsPlan, group, read_certificates, suite};

/// The name in the certificates.
const HOST: &str = "localhost";

/// What all servers use, so that they do the same work: the suite that a server must have (RFC 8446, section 9.1), and
/// the usual group.
const SUITE: &str = "TLS_AES_128_GCM_SHA256";
const GROUP: &str = "X25519";
const ALPN: &[u8] = b"http/1.1";

/// The files. They are removed when this is dropped.
pub(super) struct Made {
    folder: TempDir,
}

impl Made {
    /// Makes what the workloads need.
    ///
    /// # Errors
    /// If files cannot be written.
    pub(super) fn new(workloads: &[Workload], data: &Data) -> Result<Self, String> {
        let folder = TempDir::new().map_err(|error| format!("a temporary folder: {error}"))?;
        let made = Self { folder };
        for key in [Key::Ecdsa, Key::Rsa] {
            if workloads.iter().any(|workload| workload.key() == Some(key)) {
                made.make_certificate(key).map_err(|problem| format!("a certificate: {problem}"))?;
            }
        }
        let sizes = workloads.iter().filter_map(Workload::download_bytes);
        for (index, bytes) in sizes.enumerate() {
            let failed = |error: std::io::Error| format!("a file to download: {error}");
            if index == 0 {
                fs::create_dir_all(made.data().0.join("static")).map_err(failed)?;
                fs::copy(data.0.join("dataset.json"), made.data().0.join("dataset.json")).map_err(failed)?;
            }
            fs::write(made.data().file(&download_name(bytes)), random_bytes(bytes)).map_err(failed)?;
        }
        Ok(made)
    }

    /// The folder of files to download.
    pub(super) fn data(&self) -> Data {
        Data(self.folder.path().join("data"))
    }

    /// The files of a server's certificate and of its key.
    pub(super) fn identity(&self, key: Key) -> [PathBuf; 2] {
        ["pem", "key"].map(|extension| self.folder.path().join(format!("{}.{extension}", key.name())))
    }

    fn authority(&self, key: Key) -> PathBuf {
        self.folder.path().join(format!("{}.authority.pem", key.name()))
    }

    /// The TLS settings of a workload, if it uses TLS.
    ///
    /// # Errors
    /// If no certificate was made for it.
    pub(super) fn tls(&self, workload: &Workload) -> Result<Option<TlsPlan>, String> {
        let Some(key) = workload.key() else { return Ok(None) };
        let name = ServerName::try_from(HOST).map_err(|error| error.to_string())?;
        let mut plan = TlsPlan::new(read_certificates(&self.authority(key))?, name);
        plan.suites = vec![suite(SUITE)?];
        plan.groups = vec![group(GROUP)?];
        plan.alpn = vec![ALPN.to_vec()];
        plan.resumes = workload.resumes();
        Ok(Some(plan))
    }

    fn make_certificate(&self, key: Key) -> Result<(), String> {
        let failed = |error: rcgen::Error| error.to_string();
        let algorithm: &SignatureAlgorithm = match key {
            Key::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            // 2,048 bits, which is the default.
            Key::Rsa => &PKCS_RSA_SHA256,
        };
        let (issuer, own) =
            (KeyPair::generate_for(algorithm).map_err(failed)?, KeyPair::generate_for(algorithm).map_err(failed)?);
        let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&issuer).map_err(failed)?;
        let params = CertificateParams::new(vec![HOST.to_owned()]).map_err(failed)?;
        let certificate = params.signed_by(&own, &Issuer::from_params(&authority, &issuer)).map_err(failed)?;
        let [certificate_path, key_path] = self.identity(key);
        for (path, text) in
            [(self.authority(key), root.pem()), (certificate_path, certificate.pem()), (key_path, own.serialize_pem())]
        {
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::requests::DATA_DEFAULT;
    use super::*;

    #[test]
    fn what_workloads_need_is_made_and_nothing_else() {
        let workloads: Vec<Workload> =
            ["tls-rsa:resume:1", "download:1:1000", "http:1"].map(|name| name.parse().expect(name)).into();
        let data = Data(DATA_DEFAULT.into());
        let made = Made::new(&workloads, &data).expect("made");
        assert!(made.identity(Key::Rsa).iter().all(|path| path.exists()));
        assert!(!made.identity(Key::Ecdsa).iter().any(|path| path.exists()));
        let file = made.data().file(&download_name(1000));
        assert_eq!(fs::read(file).expect("a file"), random_bytes(1000));
        let plan = made.tls(&workloads[0]).expect("made").expect("with TLS");
        assert!(plan.resumes && plan.config(1).is_ok());
        assert!(made.tls(&workloads[1]).expect("nothing to do").is_none());
        let folder = made.folder.path().to_owned();
        drop(made);
        assert!(!folder.exists());
    }
}

//! Input and data that are not as they should be.

use std::{collections::BTreeSet, sync::Arc};

use infertrace_schemas::lake::LakeRoot;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use serde_json::Value as Json;

use crate::{
    common::{
        Setup, client, lake,
        spans::{self, hex_id},
    },
    support::{Placement, listed, records, start, write_lake},
};

/// Scenario: input that no client should send. Guarantee: a problem document that names the parameter, never a 500.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_input_is_refused_by_name() {
    let server = start(&spans::varied(3), Placement::Both).await;
    let long = "x".repeat(2_000);
    let many = "attr=a%3Db&".repeat(17);
    let refused = [
        ("/api/v1/traces?limit=0", 400, "limit"),
        ("/api/v1/traces?limit=-1", 400, "limit"),
        ("/api/v1/traces?limit=ten", 400, "limit"),
        ("/api/v1/traces?status=bad", 400, "status"),
        ("/api/v1/traces?min_duration_ms=NaN", 400, "min_duration_ms"),
        ("/api/v1/traces?min_duration_ms=1e300", 400, "min_duration_ms"),
        ("/api/v1/traces?min_duration_ms=-5", 400, "min_duration_ms"),
        ("/api/v1/traces?min_duration_ms=5&max_duration_ms=4", 400, "max_duration_ms"),
        ("/api/v1/traces?start=yesterday", 400, "start"),
        ("/api/v1/traces?start=2&end=1", 400, "end"),
        ("/api/v1/traces?attr=novalue", 400, "attr"),
        ("/api/v1/traces?attr=%3Dvalue", 400, "attr"),
        ("/api/v1/traces?cursor=AAAA", 400, "cursor"),
        ("/api/v1/traces?cursor=%00%ff", 400, "cursor"),
        ("/api/v1/traces?servise=x", 400, "servise"),
        ("/api/v1/traces?service=a&service=b", 400, "service"),
        (&format!("/api/v1/traces?service={long}"), 400, "service"),
        (&format!("/api/v1/traces?{many}"), 400, "attr"),
        ("/api/v1/traces/xyz", 400, "trace_id"),
        ("/api/v1/traces/0", 400, "trace_id"),
        (&format!("/api/v1/traces/{}", "a".repeat(33)), 400, "trace_id"),
        (&format!("/api/v1/traces/{}?format=xml", hex_id(1)), 400, "format"),
        (&format!("/api/v1/traces/{}?pretty=1", hex_id(1)), 400, "pretty"),
        ("/api/v1/services?limit=1", 400, "limit"),
        ("/api/v1/stream/traces?status=meh", 400, "status"),
        ("/api/v1/nothing", 404, ""),
        ("/api", 404, ""),
    ];
    for (path, status, parameter) in refused {
        let answer = server.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        let problem = answer.json();
        assert_eq!(problem["parameter"].as_str().unwrap_or_default(), parameter, "{path}: {problem}");
        assert!(!problem["detail"].as_str().unwrap_or_default().is_empty(), "{path}");
    }
    let taken = [
        "/api/v1/traces?limit=99999999999999999999999999",
        "/api/v1/traces?service=%27%3B%20DROP%20TABLE%20spans%3B--",
        "/api/v1/traces?service=%00%01%ff",
        "/api/v1/traces?start=2016-01-01T00:00:00Z&end=2036-01-01T00:00:00Z",
        "/api/v1/traces?start=0001-01-01T00:00:00Z&end=9999-12-31T00:00:00Z",
        "/api/v1/traces?attr=a%3Db%3Dc%3Dd",
        "/api/v1/traces?attr=x%3D%7B%22a%22%3A%7B%22b%22%3A%5B1%5D%7D%7D",
        "/api/v1/traces?attr=x%3D1e309&attr=y%3D-0&attr=z%3DNaN",
        "/api/v1/traces?service=&limit=&cursor=",
    ];
    for path in taken {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    let lowered = server.get("/api/v1/traces?limit=100000").await.json();
    assert_eq!((&lowered["truncated"], &lowered["limit"]), (&Json::Bool(true), &serde_json::json!(500)));
    let first = server.get("/api/v1/traces?limit=1").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let foreign = server.get(&format!("/api/v1/traces?service=engine&cursor={cursor}")).await;
    assert_eq!((foreign.status.as_u16(), foreign.json()["parameter"].as_str()), (400, Some("cursor")));
    let posted = client::request(server.address, "POST", "/api/v1/traces", &[]).await;
    assert_eq!((posted.status.as_u16(), posted.header("content-type")), (405, "application/problem+json"));
    server.stop().await;
}

/// Scenario: a data file overwritten, one cut short, one gone, one full of noise inside, a torn manifest.
/// Guarantee: every answer comes, names what is missing, and has everything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_costs_only_itself() {
    let all = spans::varied(60);
    let records = records(&all);
    for damage in ["garbage", "cut", "gone", "noise", "manifest"] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        write_lake(&store, &records, |count| count).await;
        let root = LakeRoot::new(lake::ROOT);
        let prefix = Path::from(root.spans());
        let listing: Vec<_> = futures::TryStreamExt::try_collect(store.list(Some(&prefix))).await.unwrap();
        let file = listing.iter().find(|file| file.location.as_ref().contains("p00001-o")).unwrap();
        let bytes = store.get(&file.location).await.unwrap().bytes().await.unwrap();
        match damage {
            "garbage" => drop(store.put(&file.location, vec![7u8; bytes.len()].into()).await.unwrap()),
            "cut" => drop(store.put(&file.location, bytes.slice(..bytes.len() / 2).into()).await.unwrap()),
            "gone" => store.delete(&file.location).await.unwrap(),
            "noise" => {
                let mut noisy = bytes.to_vec();
                let data = noisy.len() / 2;
                noisy[8..data].fill(0x5a);
                store.put(&file.location, noisy.into()).await.unwrap();
            }
            _ => {
                let path = Path::from(root.manifest(1, 0));
                store.put(&path, b"{\"version\":1,".to_vec().into()).await.unwrap();
            }
        }
        let server = Setup { store: Some(store), ..Setup::default() }.start().await;
        let page = server.get("/api/v1/traces?limit=100").await;
        assert_eq!(page.status, 200, "{damage}: {}", page.text());
        let page = page.json();
        let partial = page["partial"].as_array().unwrap();
        assert!(!partial.is_empty(), "{damage}: {page}");
        let named = partial.iter().any(|problem| problem["what"].as_str().unwrap().contains("p00001"));
        assert!(named, "{damage}: {partial:?}");
        let untouched = (1..=60).filter(|trace| trace % 3 != 1).map(hex_id);
        let found: BTreeSet<String> = listed(&page).into_iter().collect();
        for id in untouched {
            assert!(found.contains(&id), "{damage}: {id} is gone");
        }
        let by_engine = server.get("/api/v1/traces?limit=100&service=engine&attr=cached%3Dtrue").await;
        assert_eq!(by_engine.status, 200, "{damage}");
        for trace in 1..=60 {
            let answer = server.get(&format!("/api/v1/traces/{}", hex_id(trace))).await;
            if trace % 3 != 1 {
                assert_eq!(answer.status, 200, "{damage}");
                assert_eq!(answer.json()["spans"].as_array().unwrap().len(), 4, "{damage}");
                continue;
            }
            match answer.status.as_u16() {
                200 => {
                    let found = answer.json();
                    let whole = found["spans"].as_array().unwrap().len() == 4;
                    assert!(whole || found["complete"] == false, "{damage} {trace}: {found}");
                }
                404 => assert!(!answer.json()["partial"].as_array().unwrap().is_empty(), "{damage}"),
                other => panic!("{damage}: {other} {}", answer.text()),
            }
        }
        server.stop().await;
    }
}

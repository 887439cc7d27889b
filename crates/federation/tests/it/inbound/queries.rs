//! Aliases, profiles, keys, directory, spaces, media, OpenID, version.

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use media::Label;
use rooms::Preset;
use serde_json::{Value, json};

use crate::harness::{Peer, World, encoded, object, user};

#[tokio::test]
async fn fe14_aliases_of_this_server_only() {
    let world = World::new().await;
    let room = world.room("10").await;
    let two = Peer::new("two.test");
    two.join(&world, &room, "bob").await;
    world.rooms.create_alias("#größe:one.test", &room.id, &user("alice")).await.unwrap();
    let ask = async |alias: &str| {
        two.get(&world, &format!("/_matrix/federation/v1/query/directory?room_alias={}", encoded(alias))).await
    };
    let (status, answer) = ask("#größe:one.test").await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({ "room_id": room.id, "servers": ["one.test", "two.test"] }));
    for alias in ["#other:one.test", "#größe:two.test", "größe", "", "#:one.test", "#\0:one.test"] {
        let (status, answer) = ask(alias).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (404, &json!("M_NOT_FOUND")), "{alias:?}");
    }
    let (status, answer) = two.get(&world, "/_matrix/federation/v1/query/directory").await;
    assert_eq!((status.as_u16(), &answer["errcode"]), (400, &json!("M_MISSING_PARAM")));
}

#[tokio::test]
async fn fq5_profiles_of_this_server_only() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    world.users.put_profile_field(&alice, "displayname", json!("Alice")).await.unwrap();
    world.users.put_profile_field(&alice, "m.tz", json!("Europe/Berlin")).await.unwrap();
    let two = Peer::new("two.test");
    let ask = async |query: &str| two.get(&world, &format!("/_matrix/federation/v1/query/profile?{query}")).await;
    let (status, answer) = ask("user_id=@alice:one.test").await;
    assert_eq!((status.as_u16(), answer), (200, json!({ "displayname": "Alice", "m.tz": "Europe/Berlin" })));
    assert_eq!(ask("user_id=@alice:one.test&field=displayname").await.1, json!({ "displayname": "Alice" }));
    let (status, answer) = ask("user_id=@alice:one.test&field=avatar_url").await;
    assert_eq!((status.as_u16(), answer), (200, json!({})));
    for query in
        ["user_id=@alice:one.test&field=m.other", "user_id=@nobody:one.test", "user_id=@alice:two.test", "user_id="]
    {
        assert_eq!(ask(query).await.0, 404, "{query}");
    }
    assert_eq!(ask("").await.0, 400);
}

/// SEC-device-enumeration.
#[tokio::test]
async fn fq1_keys_of_this_server_only() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let login = world.users.login(&alice, users::login::NewDevice::default()).await.unwrap();
    let keys = json!({ "user_id": alice.as_str(), "device_id": login.device.as_str(), "algorithms": [], "keys": {} });
    world.users.put_device_keys(&alice, &login.device, &keys).await.unwrap();
    let one_time = json!({ "signed_curve25519:AAAA": { "key": "abc" } });
    let one_time = one_time.as_object().unwrap();
    world.users.put_one_time_keys(&alice, &login.device, one_time, &serde_json::Map::new()).await.unwrap();
    let two = Peer::new("two.test");
    let wanted = json!({ "device_keys": { alice.as_str(): [], "@bob:two.test": [], "nonsense": [] } });
    let (status, answer) = two.ask(&world, Method::POST, "/_matrix/federation/v1/user/keys/query", Some(wanted)).await;
    assert_eq!(status, 200);
    assert_eq!(answer["device_keys"], json!({ alice.as_str(): { login.device.as_str(): keys } }));
    let path = format!("/_matrix/federation/v1/user/devices/{}", encoded(alice.as_str()));
    let (status, answer) = two.get(&world, &path).await;
    assert_eq!(status, 200);
    assert_eq!(answer["devices"], json!([{ "device_id": login.device.as_str(), "keys": keys }]));
    assert!(answer["stream_id"].as_i64().unwrap() > 0);
    assert_eq!(two.get(&world, "/_matrix/federation/v1/user/devices/@bob:two.test").await.0, 404);
    assert_eq!(two.get(&world, "/_matrix/federation/v1/user/devices/@nobody:one.test").await.0, 404);
    let wanted = json!({ "one_time_keys": { alice.as_str(): { login.device.as_str(): "signed_curve25519" },
        "@bob:two.test": { "X": "signed_curve25519" } } });
    let claim =
        async || two.ask(&world, Method::POST, "/_matrix/federation/v1/user/keys/claim", Some(wanted.clone())).await.1;
    let expected = json!({ alice.as_str(): { login.device.as_str(): one_time } });
    assert_eq!(claim().await["one_time_keys"], expected);
    assert_eq!(claim().await["one_time_keys"], json!({}), "each is given once");
    for body in [json!({}), json!({ "device_keys": 5 }), json!({ "one_time_keys": [] })] {
        for route in ["query", "claim"] {
            let path = format!("/_matrix/federation/v1/user/keys/{route}");
            assert_eq!(two.ask(&world, Method::POST, &path, Some(body.clone())).await.0, 400);
        }
    }
}

#[tokio::test]
async fn fq6_the_directory_is_filtered_and_paged() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let (first, second) = (world.room("10").await, world.room("10").await);
    let hidden = world.room("10").await;
    for room in [&first, &second] {
        world.rooms.set_published(&room.id, &user("alice"), false, true).await.unwrap();
    }
    world.set(&second, "m.room.name", json!({ "name": "Gardening" })).await;
    two.join(&world, &second, "bob").await;
    let (status, answer) = two.get(&world, "/_matrix/federation/v1/publicRooms?limit=1").await;
    assert_eq!(status, 200);
    assert_eq!(answer["chunk"][0]["room_id"], json!(second.id));
    assert_eq!(answer["chunk"][0]["num_joined_members"], 2);
    assert_eq!(answer["total_room_count_estimate"], 2);
    let since = answer["next_batch"].as_str().unwrap();
    let (_, answer) = two.get(&world, &format!("/_matrix/federation/v1/publicRooms?limit=1&since={since}")).await;
    assert_eq!(answer["chunk"][0]["room_id"], json!(first.id));
    assert!(answer.get("next_batch").is_none());
    assert!(!answer.to_string().contains(&hidden.id));
    let search = json!({ "filter": { "generic_search_term": "garden", "room_types": [null] } });
    let (_, answer) = two.ask(&world, Method::POST, "/_matrix/federation/v1/publicRooms", Some(search)).await;
    assert_eq!(answer["chunk"].as_array().unwrap().len(), 1);
    let search = json!({ "filter": { "room_types": ["m.space"] } });
    let (_, answer) = two.ask(&world, Method::POST, "/_matrix/federation/v1/publicRooms", Some(search)).await;
    assert_eq!(answer["chunk"], json!([]));
    assert_eq!(two.get(&world, "/_matrix/federation/v1/publicRooms?since=x").await.0, 400);
    assert_eq!(two.get(&world, "/_matrix/federation/v1/publicRooms?limit=-1").await.0, 400);
}

#[tokio::test]
async fn fq7_a_space_shows_what_the_asking_server_could_see() {
    let world = World::new().await;
    let two = Peer::new("two.test");
    let request = rooms::CreateRoom {
        creation_content: object(json!({ "type": "m.space" })),
        creator: user("alice"),
        version: Some("10".to_owned()),
        preset: Preset::PublicChat,
        published: false,
        alias_localpart: None,
        name: None,
        topic: None,
        invite: Vec::new(),
        initial_state: Vec::new(),
        is_direct: false,
        power_level_content_override: None,
        creator_profile: event::Object::new(),
        predecessor: None,
    };
    let space = world.rooms.create_room(&request).await.unwrap();
    let open = world.room("10").await;
    let private = world.room_of("10", Preset::PrivateChat).await;
    for (child, via) in [
        (open.id.as_str(), json!(["one.test"])),
        (&private.id, json!(["one.test"])),
        ("!x:two.test", json!(["two.test"])),
        ("!gone:one.test", json!([])),
    ] {
        let content = object(json!({ "via": via }));
        let new = rooms::NewEvent::state(&user("alice"), "m.space.child", child, content);
        world.rooms.send(&space, new).await.unwrap();
    }
    let path = |room_id: &str| format!("/_matrix/federation/v1/hierarchy/{}", encoded(room_id));
    let (status, answer) = two.get(&world, &path(&space)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["room"]["room_type"], "m.space");
    assert_eq!(answer["room"]["children_state"].as_array().unwrap().len(), 3);
    assert_eq!(answer["children"].as_array().unwrap().len(), 1);
    assert_eq!(answer["children"][0]["room_id"], json!(open.id));
    assert_eq!(answer["inaccessible_children"], json!([private.id]));
    for room_id in [private.id.as_str(), "!unknown:one.test", "nonsense"] {
        let (status, answer) = two.get(&world, &path(room_id)).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (404, &json!("M_NOT_FOUND")));
    }
    let (_, answer) = two.get(&world, &format!("{}?suggested_only=true", path(&space))).await;
    assert_eq!(answer["children"], json!([]));
}

#[tokio::test]
async fn fq8_openid_tokens_name_their_user() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let (token, lifetime_ms) = world.users.openid_token(&alice).await.unwrap();
    let ask = async |query: &str| {
        world.unsigned(Method::GET, &format!("/_matrix/federation/v1/openid/userinfo{query}")).await
    };
    let (status, answer) = ask(&format!("?access_token={token}")).await;
    assert_eq!((status.as_u16(), answer), (200, json!({ "sub": "@alice:one.test" })));
    for (query, errcode) in [
        ("", "M_MISSING_TOKEN"),
        ("?access_token=other", "M_UNKNOWN_TOKEN"),
        (&format!("?access_token={}", "x".repeat(1_000)), "M_UNKNOWN_TOKEN"),
    ] {
        let (status, answer) = ask(query).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (401, &json!(errcode)));
    }
    world.clock.advance(lifetime_ms);
    assert_eq!(ask(&format!("?access_token={token}")).await.0, 401);
}

#[tokio::test]
async fn fq10_the_version_is_told() {
    let world = World::new().await;
    let (status, answer) = world.unsigned(Method::GET, "/_matrix/federation/v1/version").await;
    assert_eq!(status, 200);
    assert_eq!(answer["server"]["name"], "Hearth");
    assert!(answer["server"]["version"].is_string());
}

#[tokio::test]
async fn media_is_told_as_two_parts() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let label = Label { content_type: Some("text/plain".to_owned()), file_name: Some("hello.txt".to_owned()) };
    let mut upload = world.media.begin_upload(&alice, label, None).await.unwrap();
    upload.push(Bytes::from_static(b"Hello, world")).await.unwrap();
    let mxc = upload.finish().await.unwrap();
    let two = Peer::new("two.test");
    let path = format!("/_matrix/federation/v1/media/download/{}", mxc.media_id());
    let (status, headers, body) = world.send(two.signed(&Method::GET, &path, None)).await;
    assert_eq!(status, 200);
    let content_type = headers[CONTENT_TYPE].to_str().unwrap();
    let boundary = content_type.strip_prefix("multipart/mixed; boundary=").unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 4, "{text}");
    assert_eq!(parts[1], "\r\nContent-Type: application/json\r\n\r\n{}\r\n");
    let (head, content) = parts[2].split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: text/plain") && head.contains("hello.txt"), "{head}");
    assert_eq!(content, "Hello, world\r\n");
    assert_eq!(parts[3], "--\r\n");
    for (path, expected) in [
        ("/_matrix/federation/v1/media/download/unknown".to_owned(), 404),
        ("/_matrix/federation/v1/media/download/..%2F..".to_owned(), 404),
        (format!("/_matrix/federation/v1/media/thumbnail/{}?width=0&height=5", mxc.media_id()), 400),
        (format!("/_matrix/federation/v1/media/thumbnail/{}?width=5&height=5", mxc.media_id()), 400),
        (format!("/_matrix/federation/v1/media/thumbnail/{}?width=5&height=5&method=x", mxc.media_id()), 400),
        (format!("/_matrix/federation/v1/media/thumbnail/{}", mxc.media_id()), 400),
    ] {
        let (status, answer) = two.get(&world, &path).await;
        assert_eq!(status, expected, "{path}: {answer}");
        assert_ne!(answer, Value::Null);
    }
}

#[tokio::test]
async fn cm13_hidden_and_deleted_media_is_told_to_no_server() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let mut upload = world.media.begin_upload(&alice, Label::default(), None).await.unwrap();
    upload
        .push(Bytes::from_static(
            b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
        ))
        .await
        .unwrap();
    let mxc = upload.finish().await.unwrap();
    let two = Peer::new("two.test");
    let routes = ["download", "thumbnail"]
        .map(|route| format!("/_matrix/federation/v1/media/{route}/{}?width=1&height=1", mxc.media_id()));
    let told = async |expected: u16| {
        for path in &routes {
            let (status, _, _) = world.send(two.signed(&Method::GET, path, None)).await;
            assert_eq!(status, expected, "{path}");
        }
    };
    told(200).await;
    world.media.quarantine(&mxc, Some("@admin:one.test")).await.unwrap();
    told(404).await;
    world.media.quarantine(&mxc, None).await.unwrap();
    told(200).await;
    world.media.delete(&mxc).await.unwrap();
    told(404).await;
}

#[tokio::test]
async fn cm2_a_server_waits_for_content_as_long_as_it_likes() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    let mxc = world.media.create(&alice).await.unwrap().mxc;
    let two = Peer::new("two.test");
    let path = format!("/_matrix/federation/v1/media/download/{}", mxc.media_id());
    let (status, answer) = two.get(&world, &format!("{path}?timeout_ms=0")).await;
    assert_eq!((status.as_u16(), &answer["errcode"]), (504, &Value::from("M_NOT_YET_UPLOADED")));
    let upload = async {
        let mut upload = world.media.begin_upload_to(&alice, &mxc, Label::default(), None).await.unwrap();
        upload.push(Bytes::from_static(b"later")).await.unwrap();
        upload.finish().await.unwrap();
    };
    let (waited, ()) = tokio::join!(world.send(two.signed(&Method::GET, &path, None)), upload);
    assert_eq!(waited.0, 200);
    assert!(String::from_utf8_lossy(&waited.2).contains("later"));
}

#[tokio::test]
async fn cm14_a_thumbnail_is_told_as_two_parts() {
    let world = World::new().await;
    let alice = world.register("alice").await;
    // A picture of 2 by 2 pixels, larger than what is asked for.
    let picture: &[u8] = b"\x42\x4d\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\x18\0\0\0\0\0\
        \x10\0\0\0\x13\x0b\0\0\x13\x0b\0\0\0\0\0\0\0\0\0\0\xff\0\0\0\xff\0\0\0\0\0\xff\xff\xff\xff\xff\0\0";
    let label = Label { content_type: Some("image/bmp".to_owned()), file_name: Some("dots.bmp".to_owned()) };
    let mut upload = world.media.begin_upload(&alice, label, None).await.unwrap();
    upload.push(Bytes::from_static(picture)).await.unwrap();
    let mxc = upload.finish().await.unwrap();
    let two = Peer::new("two.test");
    let route = format!("/_matrix/federation/v1/media/thumbnail/{}", mxc.media_id());
    for query in
        ["?width=1&height=1", "?width=1&height=1&method=crop&animated=false", "?width=1&height=1&animated=true"]
    {
        let (status, headers, body) = world.send(two.signed(&Method::GET, &format!("{route}{query}"), None)).await;
        assert_eq!(status, 200, "{query}");
        let content_type = headers[CONTENT_TYPE].to_str().unwrap();
        let boundary = content_type.strip_prefix("multipart/mixed; boundary=").unwrap();
        let text = String::from_utf8_lossy(&body);
        let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4, "{query}");
        let (head, _) = parts[2].split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Type: image/png"), "{query}: {head}");
        assert!(head.contains("Content-Disposition: inline; filename=\"thumbnail.png\""), "{query}: {head}");
        let png = body.windows(8).position(|bytes| bytes == b"\x89PNG\r\n\x1a\n").unwrap();
        let size = &body[png + 16..png + 24];
        assert_eq!(size, [0, 0, 0, 1, 0, 0, 0, 1], "{query}: one pixel");
    }
}
